"""The few native functions that a device without hardware needs, as bytes for x86-64 and arm64.

torch asks its device guard through C++ virtual calls thousands of times a step, some returning a 16-byte
`c10::Stream` in two registers, which ctypes callbacks cannot do. Each function here is three to nine
instructions over plain memory cells that Python reads and writes. Calling conventions: System V x86-64
(this, arguments in rdi, rsi, rdx; result in rax, rdx) and AAPCS64 (x0, x1, x2; x0, x1).

A `c10::Device` is 16 bits, type | index << 8. A `c10::Stream` is a Device and a 64-bit id.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from struct import pack

RET_ARM = 0xD65F03C0


@dataclass(frozen=True)
class Cells:
    """Addresses of the memory that the functions share with Python, each 8 bytes but the ring.

    device: current Device of the thread. stream: id of the current stream. next_stream: id that the next
    new stream gets; device lies at most 128 bytes before it. ring: a 64-bit head, then RING_SLOTS 64-bit entries that freed
    tensors are noted in.
    """

    device: int
    stream: int
    next_stream: int
    ring: int


RING_SLOTS = 1 << 20
MANAGER_CTX = 48  # offset of manager_ctx in a DLManagedTensor (dlpack.h)


def _x86_64(cells: Cells) -> dict[str, bytes]:
    def load(register_opcode: bytes, address: int) -> bytes:
        return register_opcode + pack("<Q", address)

    rcx = b"\x48\xb9"  # mov rcx, imm64
    r8 = b"\x49\xb8"  # mov r8, imm64
    ret = b"\xc3"
    old_device = b"\x0f\xb7\x01"  # movzx eax, word [rcx]
    store_device = b"\x66\x89\x31"  # mov [rcx], si
    same_device = b"\x0f\xb7\xc6"  # movzx eax, si
    # A device without an index is the current one. cmp ah, 0xff; jne +4; movzx eax, word [rcx + distance]
    or_current = b"\x80\xfc\xff\x75\x04\x0f\xb7\x41" + pack("<b", cells.device - cells.next_stream)
    return {
        "nothing": ret,
        "get_device": load(rcx, cells.device) + old_device + ret,
        "set_device": load(rcx, cells.device) + store_device + ret,
        "exchange_device": load(rcx, cells.device) + old_device + store_device + ret,
        "get_stream": load(rcx, cells.stream) + b"\x48\x8b\x11" + same_device + ret,  # mov rdx, [rcx]
        "default_stream": same_device + b"\x31\xd2" + ret,  # xor edx, edx
        "new_stream": load(rcx, cells.next_stream) + b"\x48\x8b\x11"  # mov rdx, [rcx]
        + b"\x48\xff\x01" + same_device + or_current + ret,  # inc qword [rcx]
        "exchange_stream": load(rcx, cells.stream) + b"\x4c\x8b\x01"  # mov r8, [rcx]
        + b"\x48\x89\x11" + b"\x4c\x89\xc2" + same_device + ret,  # mov [rcx], rdx; mov rdx, r8
        "freed": load(r8, cells.ring) + b"\x48\x8b\x47" + bytes([MANAGER_CTX])  # mov rax, [rdi+48]
        + b"\xb9\x01\x00\x00\x00" + b"\xf0\x49\x0f\xc1\x08"  # mov ecx, 1; lock xadd [r8], rcx
        + b"\x81\xe1" + pack("<I", RING_SLOTS - 1)  # and ecx, mask
        + b"\x49\x89\x44\xc8\x08" + ret,  # mov [r8 + rcx*8 + 8], rax
    }  # fmt: skip


def _arm64(cells: Cells) -> dict[str, bytes]:
    def function(address: int | None, *instructions: int) -> bytes:
        """`ldr x9, =address`, the instructions, ret, and the address as a literal after them."""
        body = [*instructions, RET_ARM]
        if address is None:
            return b"".join(pack("<I", code) for code in body)
        if len(body) % 2 == 0:
            body.append(RET_ARM)  # keeps the literal 8-byte aligned behind the one load
        distance = len(body) + 1
        head = 0x58000009 | distance << 5  # ldr x9, pc + distance * 4
        return b"".join(pack("<I", code) for code in (head, *body)) + pack("<Q", address)

    same_device = 0x53003C20  # uxth w0, w1
    # lsr w10, w0, #8; cmp w10, #0xff; ldurh w11, [x9, #distance]; csel w0, w11, w0, eq
    distance = (cells.device - cells.next_stream) & 0x1FF
    or_current = (0x53087C0A, 0x7103FD5F, 0x7840012B | distance << 12, 0x1A800160)
    return {
        "nothing": function(None),
        "get_device": function(cells.device, 0x79400120),  # ldrh w0, [x9]
        "set_device": function(cells.device, 0x79000121),  # strh w1, [x9]
        "exchange_device": function(cells.device, 0x79400120, 0x79000121),
        "get_stream": function(cells.stream, same_device, 0xF9400121),  # ldr x1, [x9]
        "default_stream": function(None, same_device, 0xD2800001),  # movz x1, #0
        # uxth w0, w1; ldr x1, [x9]; add x10, x1, #1; str x10, [x9]
        "new_stream": function(cells.next_stream, same_device, 0xF9400121, 0x9100042A, 0xF900012A, *or_current),
        # uxth w0, w1; ldr x1, [x9]; str x2, [x9]
        "exchange_stream": function(cells.stream, same_device, 0xF9400121, 0xF9000122),
        # ldr x11, [x0, #48]; again: ldaxr x10, [x9]; add x12, x10, #1; stlxr w13, x12, [x9]; cbnz w13, again;
        # and x10, x10, #(2^20 - 1); add x10, x9, x10, lsl #3; str x11, [x10, #8]
        "freed": function(cells.ring, 0xF940180B, 0xC85FFD2A, 0x9100054C, 0xC80DFD2C, 0x35FFFFAD,
                          0x92404D4A, 0x8B0A0D2A, 0xF900054B),
    }  # fmt: skip


def constant(value: int, machine: str | None = None) -> bytes:
    """A function of any arguments that returns one 64-bit integer or pointer."""
    if _architecture(machine) is _x86_64:
        return b"\x48\xb8" + pack("<Q", value) + b"\xc3"  # mov rax, imm64; ret
    return pack("<II", 0x58000040, RET_ARM) + pack("<Q", value)  # ldr x0, pc + 8; ret


def functions(cells: Cells, machine: str | None = None) -> dict[str, bytes]:
    """Name -> machine code of each function. Raises LookupError for another architecture."""
    return _architecture(machine)(cells)


def _architecture(machine: str | None) -> Callable[[Cells], dict[str, bytes]]:
    machine = (machine or platform.machine()).lower()
    if machine in ("x86_64", "amd64"):
        return _x86_64
    if machine in ("aarch64", "arm64"):
        return _arm64
    raise LookupError(f"no device guard for {machine}: x86-64 and arm64 are covered")


# ---------------------------------------------------------------- pinned memory

# Written 8 bytes before every pinned block; no allocator puts it there by itself.
PINNED_MAGIC = 0x70C1_D5A7_3E9B_46F2
PINNED_ROOM = 192  # bytes more than asked for: 64 or 128 in front, so that a block never begins a page


def pinned_allocate(allocator: int, allocate: int, machine: str | None = None) -> bytes:
    """`DataPtr Allocator::allocate(size_t)`: the CPU allocator's block, begun later and marked as pinned.

    allocator and allocate are the CPU allocator and its function. The DataPtr comes back through hidden
    storage (rdi; x8), its data pointer first; its context, which is what gets freed, stays as it was.
    """
    if _architecture(machine) is _x86_64:
        return (
            b"\x53\x48\x89\xfb\x48\x81\xc2" + pack("<I", PINNED_ROOM)  # push rbx; mov rbx, rdi; add rdx, room
            + b"\x48\xbe" + pack("<Q", allocator) + b"\x48\xb8" + pack("<Q", allocate)  # mov rsi, imm; mov rax, imm
            + b"\xff\xd0\x48\x8b\x03\x48\x83\xc0\x40"  # call rax; mov rax, [rbx]; add rax, 64
            + b"\xa9\xff\x0f\x00\x00\x75\x04\x48\x83\xc0\x40"  # test eax, 0xfff; jne +4; add rax, 64
            + b"\x48\xb9" + pack("<Q", PINNED_MAGIC) + b"\x48\x89\x48\xf8"  # mov rcx, magic; mov [rax-8], rcx
            + b"\x48\x89\x03\x48\x89\xd8\x5b\xc3"  # mov [rbx], rax; mov rax, rbx; pop rbx; ret
        )  # fmt: skip
    # stp x29, x30, [sp, #-32]!; str x8, [sp, #16]; add x1, x1, #192; ldr x0, =allocator; ldr x9, =allocate; blr x9;
    # ldr x8, [sp, #16]; ldr x9, [x8]; add x9, x9, #64; tst x9, #0xfff; b.ne +8; add x9, x9, #64; ldr x10, =magic;
    # stur x10, [x9, #-8]; str x9, [x8]; ldp x29, x30, [sp], #32; ret; (nothing)
    codes = [
        0xA9BE7BFD, 0xF9000BE8, 0x91030021, 0x58000000 | 15 << 5, 0x58000009 | 16 << 5, 0xD63F0120, 0xF9400BE8,
        0xF9400109, 0x91010129, 0xF2402D3F, 0x54000041, 0x91010129, 0x5800000A | 10 << 5, 0xF81F812A, 0xF9000109,
        0xA8C27BFD, RET_ARM, RET_ARM,
    ]  # fmt: skip
    return pack("<18I3Q", *codes, allocator, allocate, PINNED_MAGIC)


def is_pinned(machine: str | None = None) -> bytes:
    """`bool isPinnedPtr(const void*)`: whether the mark stands before the block. Reads no other page than the block's."""
    if _architecture(machine) is _x86_64:
        return (
            b"\x31\xc0\x89\xf1\x81\xe1\xff\x0f\x00\x00\x83\xf9\x08\x72\x11"  # eax = 0; (esi & 0xfff) < 8: ret
            + b"\x48\xb9" + pack("<Q", PINNED_MAGIC) + b"\x48\x39\x4e\xf8\x0f\x94\xc0\xc3"  # cmp [rsi-8], rcx; sete al
        )  # fmt: skip
    # movz x0, #0; and x9, x1, #0xfff; cmp x9, #8; b.lo ret; ldur x9, [x1, #-8]; ldr x10, =magic; cmp x9, x10;
    # cset x0, eq; ret; (nothing)
    codes = [
        0xD2800000, 0x92402C29, 0xF100213F, 0x54000003 | 5 << 5, 0xF85F8029, 0x5800000A | 5 << 5, 0xEB0A013F,
        0x9A9F17E0, RET_ARM, RET_ARM,
    ]  # fmt: skip
    return pack("<10IQ", *codes, PINNED_MAGIC)
