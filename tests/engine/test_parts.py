"""The loader, the clock, the device's answers, the bar."""

import logging
import platform
import subprocess
import sys
import threading
import time

import pytest
import torch

from recsysml.engine import device, loader, seeds
from recsysml.engine.device import Machine
from recsysml.engine.progress import Progress, clock
from recsysml.engine.throughput import Meter, matmul_flops, peak_flops
from recsysml.errors import ConfigError

CPU = Machine(torch.device("cpu"), "fp32")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_every_batch_in_order_and_draws_nothing(tiny, workers):
    before = seeds.state()
    got = list(loader.iterate(tiny.Batches(), 3, 11, torch.device("cpu"), workers))
    assert len(got) == 8
    for i, batch in enumerate(got, start=3):
        for tensor, expected in zip(batch, tiny.Batches()[i], strict=True):
            assert torch.equal(tensor, expected)
    after = seeds.state()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["python"]["words"], after["python"]["words"])
    assert str(before["numpy"]) == str(after["numpy"])


def test_slow_batches_keep_their_order():
    class Slow:
        def __getitem__(self, i):
            time.sleep(0.02 if i % 3 == 0 else 0)  # those behind are ready first
            return (torch.tensor([i]),)

    got = [int(batch[0]) for batch in loader.iterate(Slow(), 0, 30, torch.device("cpu"), 3)]
    assert got == list(range(30))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_of_a_batch_comes_at_its_turn(workers):
    class Broken:
        def __getitem__(self, i):
            if i == 5:
                raise OSError("batch 5 cannot be read")
            return (torch.tensor([i]),)

    got = loader.iterate(Broken(), 3, 99, torch.device("cpu"), workers)
    assert [int(next(got)[0]), int(next(got)[0])] == [3, 4]
    with pytest.raises(OSError, match="batch 5"):
        next(got)


def test_a_loop_that_ends_early_leaves_no_thread_behind():
    class Endless:
        def __getitem__(self, i):
            return (torch.tensor([i]),)

    got = loader.iterate(Endless(), 0, 10**9, torch.device("cpu"), 2)
    next(got)
    assert [t for t in threading.enumerate() if t.name.startswith("batches")]
    got.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.mark.parametrize("workers", [0, 1, None])
def test_batches_for_a_gpu_are_pinned_and_copied_without_waiting(monkeypatch, workers):
    """No GPU is needed for it: stand-ins for tensors remember what was asked of them, and in which thread."""
    gpu, set_in, copied = torch.device("cuda:1"), {}, []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: set_in.update({threading.get_ident(): device}))

    class Array:
        def __init__(self, i):
            self.i, self.pinned_in = i, None

        def pin_memory(self):
            self.pinned_in = threading.get_ident()
            return self

        def to(self, device, non_blocking):
            copied.append((self.i, device, non_blocking, self.pinned_in))
            return self

    class Arrays:
        def __getitem__(self, i):
            return Array(i), Array(i)

    assert len(list(loader.iterate(Arrays(), 2, 9, gpu, workers))) == 7
    assert [row[:3] for row in copied] == [(i, gpu, True) for i in range(2, 9) for _ in range(2)]
    threads = {row[3] for row in copied}
    if workers == 0:
        assert threads == {threading.get_ident()}
    else:  # pinned beside the step, each thread on the right GPU
        assert threading.get_ident() not in threads and threads <= set(set_in)
        assert set(set_in.values()) == {gpu} and len(set_in) <= (workers or 2)


def test_no_workers_on_a_cpu_by_default():
    assert loader.default_workers(torch.device("cpu")) == 0
    assert loader.default_workers(torch.device("cuda")) == 2


def test_the_meter_leaves_out_warm_up_and_pauses(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def pass_time(seconds):
        clock[0] += seconds

    meter = Meter(CPU)
    meter.start()
    pass_time(7)
    meter.step(1000)  # warm-up: neither its units nor its time count
    assert meter.rate() is None
    for _ in range(4):
        pass_time(2)
        meter.step(10)
        with meter.paused():
            pass_time(50)
    assert meter.rate() == pytest.approx(40 / 8)
    pass_time(1)
    meter.step(10)
    assert meter.rate() == pytest.approx(10)  # since it was last asked
    assert meter.total_rate() == pytest.approx(50 / 9)
    assert meter.steps == 5


def test_the_meter_waits_for_work_that_is_only_queued(monkeypatch):
    """A device to which handing over work costs nothing, and doing it two seconds a step."""
    clock, queued = [0.0], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Device:
        def synchronize(self):
            clock[0], queued[0] = clock[0] + queued[0], 0.0

    meter = Meter(Device())
    meter.start()
    for _ in range(6):
        queued[0] += 2
        meter.step(10)
    with meter.paused():
        queued[0] += 100  # validation
    assert meter.rate() == pytest.approx(10 / 2)


def test_the_roof_is_the_best_product_within_its_time(monkeypatch):
    readings = iter([0.0, 1.0, 4.0, 5.0, 7.0, 8.0, 20.0])  # the end is set at 0; products take 3, 2 and 12 seconds
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    assert matmul_flops(CPU, size=10, seconds=15) == 2 * 10**3 / 2


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),  # not in the table, and no L4
        ("Tesla T4", None),
    ],
)
def test_a_gpus_peak_is_found_by_its_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(Machine(torch.device("cuda"), "bf16")) == peak
    assert peak_flops(Machine(torch.device("cuda"), "fp32")) is None  # the table is bfloat16's


def test_device_and_precision_are_resolved_or_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.resolve_device("auto") == "cpu"
    for name, words in (("cuda", "sees no GPU"), ("cuda:1", "sees no GPU"), ("gpu", "choose auto"), ("mps", "Apple")):
        with pytest.raises(ConfigError, match=words):
            device.resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.resolve_device("auto") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.resolve_device("auto") == "cuda:1"
    assert device.resolve_device("cuda:0") == "cuda:0"  # alone, what is asked for
    with pytest.raises(ConfigError, match="2 GPU"):
        device.resolve_device("cuda:2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert device.resolve_device("cuda:0") == "cuda:1"  # of the first process, in the config of a run gone on with
    assert device.resolve_device("cpu") == "cpu"


@pytest.mark.parametrize(("flags", "expected"), [({"avx2"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16")])
def test_auto_precision_follows_the_instructions(monkeypatch, flags, expected):
    monkeypatch.setattr(device, "_cpu_flags", lambda: flags)
    assert device.resolve_precision("auto", "cpu") == expected
    assert device.resolve_precision("fp16", "cpu") == "fp16"
    with pytest.raises(ConfigError, match="fp32, bf16, fp16"):
        device.resolve_precision("fp64", "cpu")


def test_prepared_float32_products_are_exact():
    device.prepare("cpu", "fp32", threads=1, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    a, b = torch.randn(300, 300), torch.randn(300, 300)
    exact = a.double() @ b.double()
    assert ((a @ b).double() - exact).abs().max() / exact.abs().max() < 1e-5


def test_plain_progress_lines(caplog):
    caplog.set_level(logging.INFO, logger="recsysml")
    with Progress(10, unit="tokens/s", seconds=0.0) as shown:
        shown.update(1, 2.5, None)
        shown.update(10, 2.0, 12345.6)
    assert "step 1/10  loss 2.5000" in caplog.messages[0]
    assert "step 10/10  loss 2.0000  12,346 tokens/s  0:00 left" in caplog.messages[1]
    caplog.clear()
    with Progress(10, mode="never", seconds=0.0) as shown:
        shown.update(10, 2.0, 1.0)
    with Progress(10, seconds=60.0) as shown:
        shown.update(1, 2.0, 1.0)  # too soon
    assert caplog.messages == []
    with pytest.raises(ConfigError, match="auto, always or never"):
        Progress(1, mode="sometimes")


def test_the_time_left_is_that_of_the_steps_left_at_the_speed_so_far(caplog, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO, logger="recsysml")
    with Progress(100, 40, seconds=0.0) as shown:
        clock[0] += 50  # compiling and the first validation: no measure of a step
        for step in (41, 51, 61):
            shown.update(step, 2.0, 1000.0)
            clock[0] += 20
    assert [message.partition("tokens/s")[2].strip() for message in caplog.messages] == ["", "1:38 left", "1:18 left"]


def test_the_bar_is_drawn_where_it_is_asked_for(capsys):
    with Progress(10, mode="always") as shown:
        shown.update(10, 2.0, 1234.0)
    text = capsys.readouterr().err
    assert "10/10" in text
    assert "loss 2.0000" in text


def test_clock():
    assert [clock(s) for s in (0.4, 59.6, 61, 3725)] == ["0:00", "1:00", "1:01", "1:02:05"]


FAULTS = """
import resource, sys, torch
from recsysml.engine import device
device.prepare("cpu", "fp32", threads=1, keep_memory=sys.argv[1] == "keep")
def touch():
    torch.ones(1 << 24)  # 64 MiB, freed at once
for _ in range(3):  # the first ones are new to any allocator
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep memory")
def test_kept_memory_is_not_fetched_from_the_kernel_again():
    """Each 64 MiB tensor is 16,384 pages: a fault for each of them, or none at all."""

    def faults(mode: str) -> int:
        command = [sys.executable, "-c", FAULTS, mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    pages = 5 * (1 << 26) // 4096
    assert faults("return") > pages / 2
    assert faults("keep") < pages / 50


def test_deterministic_eager_code_costs_no_import_of_the_compiler():
    code = """if True:
        import sys
        from recsysml.engine.device import prepare
        prepare("cpu", "fp32", threads=1, deterministic=True)
        import torch
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert "torch._inductor" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
