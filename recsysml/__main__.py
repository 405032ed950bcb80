from recsysml.cli import main

main()
