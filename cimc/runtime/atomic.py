"""What compiled code needs to share work: atomic words of an int64 array, kernels as addresses, a pause of the core."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.core import config
from numba.extending import intrinsic

cgutils: Any = untyped_cgutils
_I8, _I64 = ir.IntType(8), ir.IntType(64)
_ORDER = "seq_cst"
#: What a kernel's address takes: its arguments' address, first and end item, the thread's number.
_ENTRY = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I64, _I64, _I64])
_WORD = types.int64


def _word(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, value=args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def load(_typing: Any, array: Any, word: Any) -> Any:
    """The value of a word."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, signature, args), _ORDER, 8)

    return _WORD(array, _WORD), codegen


@intrinsic
def store(_typing: Any, array: Any, word: Any, value: Any) -> Any:
    """Give a word a value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _word(context, builder, signature, args), _ORDER, 8)
        return context.get_dummy_value()

    return types.void(array, _WORD, _WORD), codegen


def _change(operation: str) -> Any:
    @intrinsic
    def change(_typing: Any, array: Any, word: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.atomic_rmw(operation, _word(context, builder, signature, args), args[2], _ORDER)

        return _WORD(array, _WORD, _WORD), codegen

    return change


#: Add to a word, or replace it; both give the value before.
add, swap = _change("add"), _change("xchg")


@intrinsic
def pause(_typing: Any) -> Any:
    """Wait a little, and leave the core to its other thread where it has one."""

    def codegen(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        if llvm.get_process_triple().startswith("x86_64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


def _lent(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """A value whose arrays are lent, not counted: threads would contend for the counts of the arrays they share."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value=value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        parts = zip(kind.types, cgutils.unpack_tuple(builder, value, len(kind.types)), strict=True)
        return context.make_tuple(builder, kind, [_lent(context, builder, inner, part) for inner, part in parts])
    return value


@intrinsic
def bound(typing: Any, kernel: Any, arguments: Any) -> Any:
    """Addresses of ``kernel(first, end, thread, *arguments)``, a compiled function that never fails, and of its arguments.

    They hold until the function that asks for them returns. `call` takes them, on any thread.
    """
    found = kernel.get_call_type(typing, (_WORD, _WORD, _WORD, *(types.unliteral(kind) for kind in arguments.types)), {})

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        compiled = kernel.dispatcher.get_compile_result(found)
        context.active_code_library.add_linking_library(compiled.library)
        kinds = found.args[3:]
        values = cgutils.unpack_tuple(builder, args[1], len(kinds))
        values = [context.cast(builder, v, a, b) for v, a, b in zip(values, signature.args[1].types, kinds, strict=True)]
        packed = ir.LiteralStructType([value.type for value in values])
        room = cgutils.alloca_once(builder, packed)
        for n, (own, value) in enumerate(zip(kinds, values, strict=True)):
            builder.store(_lent(context, builder, own, value), cgutils.gep_inbounds(builder, room, 0, n))
        entry = ir.Function(builder.module, _ENTRY, builder.module.get_unique_name("shared"))
        entry.linkage = "internal"
        inner = ir.IRBuilder(entry.append_basic_block("entry"))
        own = inner.bitcast(entry.args[0], packed.as_pointer())
        loaded = [inner.load(cgutils.gep_inbounds(inner, own, 0, n)) for n in range(len(kinds))]
        function = context.declare_function(builder.module, compiled.fndesc)
        inputs = [*entry.args[1:], *loaded]
        status, _ = context.call_conv.call_function(inner, function, compiled.fndesc.restype, compiled.fndesc.argtypes, inputs)
        if config.BOUNDSCHECK:  # numba's debug mode: an index outside of an array ends the process, as nobody takes the error
            with inner.if_then(status.is_error):
                inner.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.trap"), [])
        inner.ret_void()
        return context.make_tuple(builder, signature.return_type, [builder.ptrtoint(entry, _I64), builder.ptrtoint(room, _I64)])

    return types.UniTuple(_WORD, 2)(kernel, arguments), codegen


@intrinsic
def call(_typing: Any, kernel: Any, arguments: Any, first: Any, end: Any, thread: Any) -> Any:
    """Call what `bound` gave addresses of, with these items."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        entry = builder.inttoptr(args[0], _ENTRY.as_pointer())
        builder.call(entry, [builder.inttoptr(args[1], _I8.as_pointer()), *args[2:]])
        return context.get_dummy_value()

    return types.void(*[_WORD] * 5), codegen
