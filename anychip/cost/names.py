"""Which ops are which: tables of packets (names without overload) that share one rule.

POINTWISE is the set that torch 2.13 tags `pointwise`, in-place forms left out (the rule accepts both), plus
the backward forms that are pointwise without the tag.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


POINTWISE = _words(
    """
    __ilshift__ __ixor__ __lshift__ __rshift__ __irshift__ __xor__ __and__ __or__ __iand__ __ior__
    _conj_physical abs absolute acos acosh add addcdiv addcmul angle asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip complex polar conj_physical copysign
    cos cosh deg2rad digamma div divide elu elu_backward eq erf erfc erfinv exp exp2 expm1 float_power floor
    floor_divide fmax fmin fmod frac frexp gcd ge gelu gelu_backward glu glu_backward greater gt hardshrink
    hardshrink_backward hardsigmoid hardsigmoid_backward hardswish hardswish_backward hardtanh hardtanh_backward
    heaviside hypot i0 igamma igammac isin isfinite isinf isnan isneginf isposinf isreal lcm ldexp le leaky_relu
    leaky_relu_backward lerp less lgamma log log10 log1p log2 log_sigmoid_forward log_sigmoid_backward logaddexp
    logaddexp2 logical_and logical_not logical_or logical_xor logit logit_backward lt masked_fill masked_scale maximum
    minimum mish mish_backward mul multiply mvlgamma nan_to_num native_dropout_backward ne neg negative nextafter
    polygamma positive pow prelu _prelu_kernel _prelu_kernel_backward rad2deg reciprocal relu relu6 remainder round
    rrelu rrelu_with_noise rrelu_with_noise_backward rsqrt rsub selu sgn sigmoid sigmoid_backward sign signbit silu
    silu_backward sin sinc sinh softplus softplus_backward softshrink softshrink_backward sqrt square sub subtract tan
    tanh tanh_backward threshold threshold_backward true_divide trunc where xlogy
    tril triu flip roll rot90 view_as_complex_copy real_copy imag_copy _to_dense nested_to_padded
    mse_loss_backward smooth_l1_loss_backward huber_loss_backward binary_cross_entropy_backward
    soft_margin_loss_backward l1_loss_backward kl_div_backward
    lift_fresh_copy pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward
    replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d
    _upsample_bicubic2d_aa upsample_trilinear3d upsample_nearest1d_backward upsample_nearest2d_backward
    upsample_nearest3d_backward _upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward
    _upsample_nearest_exact3d_backward upsample_linear1d_backward upsample_bilinear2d_backward
    _upsample_bilinear2d_aa_backward upsample_bicubic2d_backward _upsample_bicubic2d_aa_backward
    upsample_trilinear3d_backward grid_sampler_2d grid_sampler_3d affine_grid_generator grid_sampler_2d_backward
    grid_sampler_3d_backward im2col col2im unfold_backward slice_backward select_backward diagonal_backward
    as_strided_scatter slice_scatter select_scatter diagonal_scatter diag_embed cross linalg_cross _copy_from
    _copy_from_and_resize quantize_per_tensor dequantize fake_quantize_per_tensor_affine
    fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
    _reinterpret_tensor _cast_Byte type_as contiguous
    """
)

SPECIAL_PREFIX = "special_"  # Bessel functions, polynomials: all pointwise

# Of these the functions: tens of instructions an element where a chip has none of its own for it.
TRANSCENDENTAL = _words(
    """
    acos acosh asin asinh atan atan2 atanh celu cos cosh digamma elu elu_backward erf erfc erfinv exp exp2 expm1
    float_power gelu gelu_backward glu glu_backward lgamma log log10 log1p log2 log_sigmoid_backward log_sigmoid_forward
    logaddexp logit mish mish_backward pow sigmoid silu silu_backward sin sinh softplus softplus_backward tan tanh
    """
)

# One pass over the input, a small result.
REDUCTION = _words(
    """
    all amax amin aminmax any argmax argmin count_nonzero cumulative_trapezoid linalg__powsum linalg_vector_norm
    logsumexp max mean median mode min nanmean nanmedian nansum norm prod std std_mean sum var var_mean _is_all_true
    _is_any_true equal trace dist frobenius_norm sum_to_size bincount histc _histogramdd_bin_edges isclose allclose
    mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div
    _nested_tensor_from_mask_left_aligned
    soft_margin_loss margin_ranking_loss nll_loss_nd poisson_nll_loss multi_margin_loss
    multilabel_margin_loss_forward multi_margin_loss_backward multilabel_margin_loss_backward
    _ctc_loss _ctc_loss_backward _use_cudnn_ctc_loss _cudnn_ctc_loss
    _cdist_forward _cdist_backward _pdist_forward cosine_similarity renorm
    """
)

# Max and average pooling: reads the map, writes the smaller one (backward the other way, indices included).
POOLING = _words(
    """
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices max_pool2d_backward
    max_pool2d_with_indices_backward max_pool3d_with_indices_backward avg_pool1d avg_pool2d avg_pool3d
    avg_pool2d_backward avg_pool3d_backward _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d
    _adaptive_avg_pool3d_backward adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool2d_backward adaptive_max_pool3d adaptive_max_pool3d_backward
    fractional_max_pool2d fractional_max_pool2d_backward fractional_max_pool3d fractional_max_pool3d_backward
    max_unpool2d max_unpool3d
    """
)

# Only write: numbers that are known, and such as are made.
CONSTANT = _words("fill_ fill zero_ zero zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full")

FILL = _words(
    """
    arange linspace logspace eye scalar_tensor range tril_indices triu_indices hann_window hamming_window
    normal_ normal normal_functional uniform_ uniform bernoulli_ bernoulli random_ random exponential_ exponential
    cauchy_ geometric_ geometric log_normal_ log_normal rand randn randint rand_like randn_like randint_like randperm
    _standard_gamma_grad _dirichlet_grad
    poisson binomial _standard_gamma _sample_dirichlet _cudnn_init_dropout_state _fill_mem_eff_dropout_mask_
    """
)

# Change what a tensor means, not what it holds; or allocate. Nothing is launched.
METADATA = _words(
    """
    _autocast_to_full_precision _autocast_to_reduced_precision _conj _fw_primal _indices _make_dual _neg_view
    _nested_get_values _nested_view_from_buffer _nested_view_from_jagged _reshape_alias _unpack_dual _values adjoint
    alias as_strided as_strided_ broadcast_to ccol_indices chunk col_indices conj crow_indices detach detach_ diagonal
    dsplit expand expand_as hsplit imag indices lift_fresh linalg_diagonal mH mT matrix_H moveaxis movedim narrow
    numpy_T permute ravel real reshape reshape_as resolve_conj resolve_neg row_indices select slice slice_inverse split
    split_with_sizes squeeze squeeze_ swapaxes swapdims t t_ tensor_split transpose transpose_ unbind unflatten unfold
    unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_ values view view_as view_as_complex
    view_as_real vsplit _unsafe_view flatten requires_grad_ record_stream set_ resize_ resize_as_ lift
    empty empty_like empty_strided empty_permuted new_empty new_empty_strided _empty_affine_quantized
    _efficientzerotensor
    is_pinned is_same_size is_set_to _has_same_storage_numel size stride storage_offset numel dim sym_size sym_stride
    sym_numel sym_storage_offset _assert_async _assert_scalar _assert_tensor_metadata _local_scalar_dense_unbacked
    rename_ rename align_to refine_names _use_cudnn_rnn_flatten_weight _version _fused_sdp_choice
    """
)

# Reads rows or elements named by an index.
GATHER = _words(
    """
    index _unsafe_index index_select gather take take_along_dim embedding masked_select nonzero nonzero_static
    _unsafe_masked_index searchsorted bucketize embedding_renorm_
    repeat repeat_interleave tile
    """
)

# Writes elements named by an index into a tensor; out of place, the tensor is copied first.
SCATTER = _words(
    """
    index_put index_put_ _index_put_impl_ _unsafe_index_put _unsafe_masked_index_put_accumulate index_add index_add_
    index_copy index_copy_ index_fill index_fill_ index_reduce index_reduce_ scatter scatter_ scatter_add scatter_add_
    scatter_reduce scatter_reduce_ masked_scatter masked_scatter_ put put_ gather_backward index_select_backward
    masked_select_backward take_backward masked_scatter_backward fill_diagonal_
    """
)

CONCATENATE = _words(
    """
    cat _cat concat concatenate stack _stack hstack vstack dstack column_stack row_stack _chunk_cat
    split_with_sizes_copy split_copy unbind_copy block_diag _pack_padded_sequence _pad_packed_sequence
    cartesian_prod meshgrid
    """
)

# A prefix sum or product along one dimension.
SCAN = _words("cumsum cumprod cummax cummin logcumsumexp _logcumsumexp _cummax_helper _cummin_helper")

# Ordering; `unique` sorts first.
SORT = _words(
    "sort argsort msort sort_stable topk kthvalue unique _unique _unique2 unique_dim unique_consecutive "
    "multinomial unique_dim_consecutive"
)

COLLECTIVE_PREFIXES = ("c10d.", "_c10d_functional.", "c10d_functional.", "_dtensor.", "symm_mem.")
