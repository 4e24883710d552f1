"""Names of `triton.language` and of its device library: what a kernel may use; only their presence matters here."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LANGUAGE_FUNCTIONS = _words(
    """
    PropagateNan abs add advance arange argmax argmin assume associative_scan atomic_add atomic_and atomic_cas
    atomic_max atomic_min atomic_or atomic_xchg atomic_xor bitonic_merge broadcast broadcast_to cast cat ceil clamp
    cos cumprod cumsum debug_barrier device_assert device_print div_rn dot dot_scaled erf exp exp2 expand_dims fdiv
    flip floor fma full gather histogram inline_asm_elementwise interleave join load log log2
    make_block_ptr make_tensor_descriptor map_elementwise max max_constancy max_contiguous maximum min minimum mul
    multiple_of num_programs permute philox pi32_to_pi64 program_id rand rand4x randint randint4x randn randn4x range
    ravel reduce reduce_or reshape rsqrt sigmoid sin slice softmax sort split sqrt sqrt_rn static_assert static_print
    static_range store sub sum swizzle2d tensor tensor_descriptor topk trans umulhi uint_to_uniform_float view where xor_sum
    zeros zeros_like block_type pointer_type const TRITON_MAX_TENSOR_NUMEL load_tensor_descriptor store_tensor_descriptor
    """
)

LANGUAGE_DTYPES = _words(
    "bfloat16 float16 float32 float64 float8e4b15 float8e4b8 float8e4nv float8e5 float8e5b16 int1 int8 int16 int32 "
    "int64 uint8 uint16 uint32 uint64 pi32_t void"
)

LIBDEVICE = _words(
    """
    abs acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh cospi div_rn div_rz erf erfc erfcinv erfinv exp
    exp10 exp2 expm1 fast_cosf fast_dividef fast_expf fast_logf fast_powf fast_sinf fast_tanf fdiv floor fma fmod hypot
    isfinited finitef isinf isnan j0 j1 ldexp lgamma llrint log log10 log1p log2 max min nearbyint pow rcp_rn rint round
    rsqrt sigmoid sin sinh sinpi sqrt sqrt_rn tan tanh tgamma trunc umulhi y0 y1
    """
)
