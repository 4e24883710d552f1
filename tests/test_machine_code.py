"""The native functions of the device, for both architectures, run in a CPU emulator: what each returns and stores."""

from struct import pack, unpack

import pytest

from anychip.device.insides import machine_code

unicorn = pytest.importorskip("unicorn")
from unicorn import arm64_const, x86_const  # noqa: E402

MACHINES = ("x86_64", "aarch64")
CODE, STOP, DATA, OBJECT, HEAP = 0x100000, 0x108000, 0x40000000, 0x200000, 0x300000
STACK = OBJECT + 0x800
CELLS = machine_code.Cells(device=DATA, stream=DATA + 8, next_stream=DATA + 16, ring=DATA + 0x1000)
# A c10::Device is type | index << 8: 1 is CUDA, so this is cuda:3, and OTHER is cuda:5.
DEVICE, OTHER = 0x0301, 0x0501
STREAM, NEXT_STREAM = 7, 42
# Above the 16 bits of the argument: a caller may leave anything there, and it must not come back.
DIRT = 0xDEAD0000


class Machine:
    """An emulated CPU with the code at CODE and the cells as the test sets them."""

    def __init__(self, name, code):
        self.name = name
        if name == "x86_64":
            self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        else:
            self.cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self.cpu.mem_map(CODE, 0x10000)
        self.cpu.mem_map(DATA, 0x1000 + 8 * (machine_code.RING_SLOTS + 1) + 0xFF8)
        self.cpu.mem_map(OBJECT, 0x1000)
        self.cpu.mem_map(HEAP, 0x10000)
        self.cpu.mem_write(CODE, code)
        for address, value in ((CELLS.device, DEVICE), (CELLS.stream, STREAM), (CELLS.next_stream, NEXT_STREAM)):
            self.write(address, value)

    def write(self, address, value):
        self.cpu.mem_write(address, pack("<Q", value))

    def read(self, address):
        return unpack("<Q", bytes(self.cpu.mem_read(address, 8)))[0]

    def cells(self):
        return tuple(self.read(address) for address in (CELLS.device, CELLS.stream, CELLS.next_stream))

    def call(self, *arguments, hidden=None):
        """Call the function; returns both result registers. hidden: where a large result goes (x8; rdi comes first)."""
        if self.name == "x86_64":
            self.write(STACK, STOP)  # the return address
            self.cpu.reg_write(x86_const.UC_X86_REG_RSP, STACK)
            given = arguments if hidden is None else (hidden, *arguments)
            registers = (x86_const.UC_X86_REG_RDI, x86_const.UC_X86_REG_RSI, x86_const.UC_X86_REG_RDX)
            results = (x86_const.UC_X86_REG_RAX, x86_const.UC_X86_REG_RDX)
        else:
            self.cpu.reg_write(arm64_const.UC_ARM64_REG_LR, STOP)
            self.cpu.reg_write(arm64_const.UC_ARM64_REG_SP, STACK)
            self.cpu.reg_write(arm64_const.UC_ARM64_REG_X8, hidden or 0)
            given = arguments
            registers = (arm64_const.UC_ARM64_REG_X0, arm64_const.UC_ARM64_REG_X1, arm64_const.UC_ARM64_REG_X2)
            results = (arm64_const.UC_ARM64_REG_X0, arm64_const.UC_ARM64_REG_X1)
        for register, value in zip(registers, given, strict=False):
            self.cpu.reg_write(register, value)
        self.cpu.emu_start(CODE, STOP, count=200)
        stack, expected = self.stack()
        assert stack == expected, "the stack is not as it was"
        return tuple(self.cpu.reg_read(register) for register in results)

    def stack(self):
        if self.name == "x86_64":
            return self.cpu.reg_read(x86_const.UC_X86_REG_RSP), STACK + 8
        return self.cpu.reg_read(arm64_const.UC_ARM64_REG_SP), STACK


@pytest.fixture(params=MACHINES)
def machine(request):
    return lambda name: Machine(request.param, machine_code.functions(CELLS, request.param)[name])


def test_both_architectures_have_the_same_functions():
    first, second = (machine_code.functions(CELLS, name) for name in MACHINES)
    assert first.keys() == second.keys()


@pytest.mark.parametrize(
    ("name", "returned", "cells"),
    [
        # a Device comes back in the first register; a Stream is a Device and, in the second, its id
        ("get_device", (DEVICE,), (DEVICE, STREAM, NEXT_STREAM)),
        ("set_device", (), (OTHER, STREAM, NEXT_STREAM)),
        ("exchange_device", (DEVICE,), (OTHER, STREAM, NEXT_STREAM)),
        ("get_stream", (OTHER, STREAM), (DEVICE, STREAM, NEXT_STREAM)),
        ("default_stream", (OTHER, 0), (DEVICE, STREAM, NEXT_STREAM)),
        ("new_stream", (OTHER, NEXT_STREAM), (DEVICE, STREAM, NEXT_STREAM + 1)),
        ("exchange_stream", (OTHER, STREAM), (DEVICE, 9, NEXT_STREAM)),
        ("nothing", (), (DEVICE, STREAM, NEXT_STREAM)),
    ],
)
def test_guard_functions(machine, name, returned, cells):
    cpu = machine(name)
    results = cpu.call(OBJECT, DIRT | OTHER, 9)
    assert results[: len(returned)] == returned
    assert cpu.cells() == cells


def test_a_new_stream_of_no_device_s_index_is_on_the_current_one(machine):
    assert machine("new_stream").call(OBJECT, DIRT | 0xFF01, 9)[:2] == (DEVICE, NEXT_STREAM)


@pytest.mark.parametrize(
    "head", [0, 5, machine_code.RING_SLOTS - 1, machine_code.RING_SLOTS, 3 * machine_code.RING_SLOTS + 2]
)
def test_a_freed_tensor_is_noted_in_the_ring(machine, head):
    """The entry is the tensor's manager_ctx; the slot is the head modulo the ring's size; the head goes one on."""
    cpu = machine("freed")
    cpu.write(CELLS.ring, head)
    cpu.write(OBJECT + machine_code.MANAGER_CTX, 0xABCDEF)
    cpu.call(OBJECT)
    assert cpu.read(CELLS.ring) == head + 1
    assert cpu.read(CELLS.ring + 8 + 8 * (head % machine_code.RING_SLOTS)) == 0xABCDEF


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("value", [0, 1, 0x123456789ABCDEF0])
def test_constants(name, value):
    assert Machine(name, machine_code.constant(value, name)).call(OBJECT, 1, 2)[0] == value


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("block", [HEAP + 0x40, HEAP + 0x1000 - 64], ids=["inside a page", "64 bytes before a page"])
def test_a_pinned_block_begins_later_and_is_marked(name, block):
    """The CPU's allocator is played by code that stores `block` as the result's first word and its arguments after it."""
    allocator, allocate = 0x1234, CODE + 0x1000
    cpu = Machine(name, machine_code.pinned_allocate(allocator, allocate, name))
    if name == "x86_64":
        # mov rax, block; mov [rdi], rax; mov [rdi+8], rsi; mov [rdi+16], rdx; ret
        fake = b"\x48\xb8" + pack("<Q", block) + b"\x48\x89\x07\x48\x89\x77\x08\x48\x89\x57\x10\xc3"
    else:
        # ldr x9, pc+20; str x9, [x8]; str x0, [x8, #8]; str x1, [x8, #16]; ret; block
        codes = (0x58000009 | 5 << 5, 0xF9000109, 0xF9000500, 0xF9000901, 0xD65F03C0)
        fake = pack("<5I", *codes) + pack("<Q", block)
    cpu.cpu.mem_write(allocate, fake)
    # DataPtr Allocator::allocate(this, nbytes)
    cpu.call(OBJECT, 1000, hidden=OBJECT + 0x100)
    begin = cpu.read(OBJECT + 0x100)
    # 64 bytes later, or 128 where that would be the start of a page: isPinnedPtr must not read the page before
    assert begin == (block + 64 if (block + 64) % 4096 else block + 128)
    assert cpu.read(begin - 8) == machine_code.PINNED_MAGIC
    assert cpu.read(OBJECT + 0x108) == allocator
    assert cpu.read(OBJECT + 0x110) == 1000 + machine_code.PINNED_ROOM
    # the block with room for the mark still holds what was asked for
    assert begin + 1000 <= block + 1000 + machine_code.PINNED_ROOM


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(
    ("address", "mark", "pinned"),
    [
        (HEAP + 0x48, machine_code.PINNED_MAGIC, 1),
        (HEAP + 0x48, machine_code.PINNED_MAGIC ^ 1, 0),
        (HEAP + 8, machine_code.PINNED_MAGIC, 1),
        (HEAP + 0x1000, machine_code.PINNED_MAGIC, 0),  # page start: what stands before is not looked at
    ],
)
def test_is_pinned_reads_the_mark(name, address, mark, pinned):
    cpu = Machine(name, machine_code.is_pinned(name))
    cpu.write(address - 8, mark)
    assert cpu.call(OBJECT, address)[0] & 0xFF == pinned


@pytest.mark.parametrize("name", MACHINES)
def test_is_pinned_never_reads_the_page_before(name):
    cpu = Machine(name, machine_code.is_pinned(name))
    cpu.cpu.mem_unmap(HEAP, 0x1000)
    for offset in range(8):
        assert cpu.call(OBJECT, HEAP + 0x1000 + offset)[0] & 0xFF == 0


def test_another_architecture_is_said():
    with pytest.raises(LookupError, match="riscv64"):
        machine_code.functions(CELLS, "riscv64")
