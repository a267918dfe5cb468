"""Every schema of the torch ops, in one place. No imports: setup.py reads this file to compile the schemas into `_C`.

For each op there is a backward op, and of both a version `_op` without an autograd rule: the same kernel, called by the
autograd Functions and by inference (a Python rule from `register_autograd` costs 5 us even where no gradient is asked for).

grad_mask: bit i is set where the gradient of tensor argument i is asked for; optional gradients: None where none came; optional numbers:
None and infinity are the same.
"""

# op -> (forward, backward or None)
SCHEMAS: dict[str, tuple[str, str | None]] = {
    "planar_flow": (
        "(Tensor z, Tensor u, Tensor w, Tensor b, int mode) -> (Tensor z_out, Tensor log_det, Tensor act)",
        "(Tensor z, Tensor act, Tensor u, Tensor w, Tensor gz, Tensor gl, int mode) -> (Tensor, Tensor, Tensor, Tensor)",
    ),
    "planar_flow_inverse": (
        "(Tensor z_out, Tensor u, Tensor w, Tensor b, int mode) -> (Tensor z_in, Tensor log_det, Tensor act)",
        "(Tensor z_in, Tensor act, Tensor u, Tensor w, Tensor gz, Tensor gl, int mode) -> (Tensor, Tensor, Tensor, Tensor)",
    ),
    "conditional_planar_flow": (
        "(Tensor z, Tensor h, Tensor weight, Tensor bias, int mode) -> (Tensor z_out, Tensor log_det, Tensor act)",
        "(Tensor z, Tensor act, Tensor h, Tensor weight, Tensor bias, Tensor gz, Tensor gl, int mode) -> (Tensor, Tensor, Tensor, Tensor)",
    ),
    "wasserstein_quantile_loss": (
        "(Tensor samples, Tensor q_user, Tensor q_item, Tensor lam, int grad_mask) -> (Tensor loss, Tensor signs, Tensor slope)",
        "(Tensor signs, Tensor slope, Tensor lam, Tensor g, int grad_mask) -> (Tensor, Tensor, Tensor, Tensor)",
    ),
    "encode_increments": (
        "(Tensor y, Tensor widths) -> Tensor",
        "(Tensor y, Tensor widths, Tensor? g, int grad_mask) -> (Tensor, Tensor)",
    ),
    "crps": (
        "(Tensor samples, Tensor y, bool fair, int grad_mask) -> (Tensor value, Tensor slopes)",
        "(Tensor slopes, Tensor g, bool fair, int grad_mask) -> (Tensor, Tensor)",
    ),
    # levels: [B, L], all rows one where their stride is 0
    "pinball": (
        "(Tensor q, Tensor y, Tensor levels) -> Tensor",
        "(Tensor q, Tensor y, Tensor levels, Tensor? g, int grad_mask) -> (Tensor, Tensor)",
    ),
    "interval_score": (
        "(Tensor lower, Tensor upper, Tensor y, float level) -> Tensor",
        "(Tensor lower, Tensor upper, Tensor y, Tensor g, float level, int grad_mask) -> (Tensor, Tensor, Tensor)",
    ),
    # capacity: [B], or the number `cap`
    "nested_min": (
        "(Tensor increments, Tensor widths, Tensor? capacity, float? cap) -> (Tensor value, Tensor clipped)",
        "(Tensor increments, Tensor widths, Tensor? capacity, Tensor? g_value, Tensor? g_clipped, float? cap, int grad_mask)"
        " -> (Tensor, Tensor, Tensor)",
    ),
    # alpha bars: one per row, [B] or [B, K] with any strides, or the numbers a_t, a_s; in flow matching the times
    "q_sample": (
        "(Tensor x0, Tensor noise, Tensor? alpha_bar, float a, int kind) -> Tensor",
        "(Tensor x0, Tensor noise, Tensor? alpha_bar, Tensor? g, float a, int kind, int grad_mask) -> (Tensor, Tensor, Tensor)",
    ),
    "predict_x0": (
        "(Tensor x_t, Tensor output, Tensor? alpha_bar, float a, int kind, float? clip) -> Tensor",
        "(Tensor x_t, Tensor output, Tensor? alpha_bar, Tensor? g, float a, int kind, float? clip, int grad_mask)"
        " -> (Tensor, Tensor, Tensor)",
    ),
    "reverse_step": (
        "(Tensor x_t, Tensor output, Tensor? alpha_bar_t, Tensor? alpha_bar_s, Tensor? noise, Tensor? row_ids, float a_t, float a_s,"
        " float eta, int kind, float? clip, bool reclip, bool random, int seed, int step) -> (Tensor x_s, Tensor x0)",
        "(Tensor x_t, Tensor output, Tensor? alpha_bar_t, Tensor? alpha_bar_s, Tensor? noise, Tensor? row_ids, Tensor? g_xs, Tensor? g_x0,"
        " float a_t, float a_s, float eta, int kind, float? clip, bool reclip, bool random, int seed, int step, int grad_mask)"
        " -> (Tensor, Tensor, Tensor, Tensor)",
    ),
    "guided_posterior_step": (
        "(Tensor x_t, Tensor f_un, Tensor f_cp, Tensor f_tf, Tensor? alpha_bar_t, Tensor? alpha_bar_s, Tensor? noise, Tensor? row_ids,"
        " float a_t, float a_s, float gamma_cp, float gamma_tf, bool beta, bool random, int seed, int step) -> (Tensor x_s, Tensor f_hat)",
        "(Tensor x_t, Tensor f_un, Tensor f_cp, Tensor f_tf, Tensor? alpha_bar_t, Tensor? alpha_bar_s, Tensor? noise, Tensor? row_ids,"
        " Tensor? g_xs, Tensor? g_f, float a_t, float a_s, float gamma_cp, float gamma_tf, bool beta, bool random, int seed, int step,"
        " int grad_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    # step_coefficients [S, 4] in fp64: d0, d1, sigma, timestep
    "fusion_chain": (
        "(Tensor h_long, Tensor g_cp, Tensor g_tf, Tensor mask, Tensor w_in, Tensor b_in, Tensor w_cond, Tensor w_out, Tensor b_out,"
        " Tensor empty, Tensor embedding, Tensor step_coefficients, Tensor? noise, Tensor? row_ids, Tensor? draw_ids,"
        " float gamma_cp, float gamma_tf, int seed) -> Tensor",
        None,
    ),
    # step_coefficients [S, 8] in fp64: c0, c1, d0, d1, d2, sigma, timestep, place among the K aligned ones or -1;
    # bf16: the weights are bf16 numbers, and what enters a product may be rounded to that
    "denoise_chain": (
        "(Tensor x, Tensor cond, Tensor w_in, Tensor b_in, Tensor w_cond, Tensor w_out, Tensor b_out, Tensor embedding,"
        " Tensor step_coefficients, Tensor? noise, Tensor? row_ids, Tensor? draw_ids, int K, float? clip, int seed, bool bf16)"
        " -> (Tensor x_0, Tensor states)",
        None,
    ),
    # networks of one hidden layer: w_in [H, D], w_out [O, H], or G of them side by side; cond, time: rows [T, H] by index [R];
    # seed: [] on the CPU, None without dropout
    "mlp": (
        "(Tensor x, Tensor w_in, Tensor? b_in, Tensor? cond, Tensor? time, Tensor w_out, Tensor? b_out, Tensor? cond_index,"
        " Tensor? time_index, Tensor? seed, Tensor? row_ids, float dropout) -> Tensor",
        "(Tensor x, Tensor w_in, Tensor? b_in, Tensor? cond, Tensor? time, Tensor w_out, Tensor? b_out, Tensor? cond_index,"
        " Tensor? time_index, Tensor? seed, Tensor? row_ids, Tensor g, float dropout, int grad_mask)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    # a Transformer layer on packed tokens [N, W], sequence s is offsets[s] .. offsets[s + 1]; memory [S, W]; seed: [] on the CPU, None
    # without dropout; activation: SiLU, ReLU, GELU; saved are queries, keys and values, two sums and the hidden layer
    "sequence_layer": (
        "(Tensor x, Tensor? memory, Tensor norm1_weight, Tensor norm1_bias, Tensor qkv_weight, Tensor qkv_bias, Tensor out_weight,"
        " Tensor out_bias, Tensor norm2_weight, Tensor norm2_bias, Tensor linear1_weight, Tensor linear1_bias, Tensor linear2_weight,"
        " Tensor linear2_bias, Tensor? norm3_weight, Tensor? norm3_bias, Tensor offsets, Tensor? seed, Tensor? row_ids,"
        " int heads, int activation, bool pre_norm, bool causal, float eps, float dropout, int step, int grad_mask)"
        " -> (Tensor y, Tensor qkv, Tensor z1, Tensor h, Tensor z3)",
        "(Tensor x, Tensor? memory, Tensor norm1_weight, Tensor norm1_bias, Tensor qkv_weight, Tensor qkv_bias, Tensor out_weight,"
        " Tensor out_bias, Tensor norm2_weight, Tensor norm2_bias, Tensor linear1_weight, Tensor linear1_bias, Tensor linear2_weight,"
        " Tensor linear2_bias, Tensor? norm3_weight, Tensor? norm3_bias, Tensor offsets, Tensor? seed, Tensor? row_ids,"
        " Tensor qkv, Tensor z1, Tensor h, Tensor z3, Tensor g,"
        " int heads, int activation, bool pre_norm, bool causal, float eps, float dropout, int step, int grad_mask)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,"
        " Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    # window: -1 for the whole vocabulary
    "embedding_mixup": (
        "(Tensor logits, Tensor embedding, int window, int first) -> Tensor",
        "(Tensor logits, Tensor embedding, Tensor? g, int window, int first, int grad_mask) -> (Tensor, Tensor)",
    ),
    "windowed_value": (
        "(Tensor logits, Tensor values, int window) -> Tensor",
        "(Tensor logits, Tensor values, Tensor? g, int window, int grad_mask) -> (Tensor, Tensor)",
    ),
    # weights: as reference/value_decode.py lists them; capacity: [B], or the number `cap`
    "value_decode": (
        "(Tensor memory, Tensor values, Tensor[] weights, Tensor? position, Tensor? capacity, Tensor? row_ids, Tensor? draw_ids, int heads,"
        " bool pre, bool gelu, float eps, int steps, int window, int mixup, bool windowed, float temperature, bool monotone, float? cap,"
        " int seed) -> (Tensor value, Tensor tokens, Tensor lengths)",
        None,
    ),
    "philox": ("(Tensor counter, Tensor key) -> Tensor", None),
    "random_normal": ("(Tensor row_ids, Tensor? draw_ids, int draw, int seed, int step, int width) -> Tensor", None),
    "random_uniform": ("(Tensor row_ids, Tensor? draw_ids, int draw, int seed, int step, int width) -> Tensor", None),
    # AdamW; steps [N, 4] in fp64: decay, rate, root, weight (csrc/cpu/ops/adamw_args.h). In place, without a rule of autograd.
    "adamw_step": (
        "(Tensor(a!)[] params, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] means, Tensor[] grads, Tensor[] others,"
        " Tensor steps, float max_norm, float beta1, float beta2, float eps) -> float",
        None,
    ),
    "adamw_rows": (
        "(Tensor(a!) param, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!)? mean, Tensor? grad, Tensor? rows, Tensor(e!) last,"
        " Tensor steps, float scale, float beta1, float beta2, float eps) -> ()",
        None,
    ),
    "isa": ("() -> str", None),
    "_vmath": ("(Tensor x, int which) -> Tensor", None),  # for tests: the native kernels' own exp, tanh, ...
}


def definitions() -> list[str]:
    """All schemas with their names, as the dispatcher takes them."""
    found = []
    for name, (forward, backward) in SCHEMAS.items():
        found.append(name + forward)
        if backward is not None:
            found += [f"_{name}{forward}", f"{name}_backward{backward}", f"_{name}_backward{backward}"]
    return found


# CUDA C++ kernels that take what the op takes. Registered as `ordkernels_cuda::<op>`: the launchers of `_cuda` call them.
CUDA_OPS = ("planar_flow", "nested_min", "encode_increments", "crps", "wasserstein_quantile_loss")
# Those that take something else, as csrc/cuda/<op>.cu says.
CUDA_SCHEMAS: dict[str, str] = {
    "denoise_chain": (
        "(Tensor x, Tensor shift, Tensor times, Tensor w_in, Tensor w_out, Tensor b_out, Tensor step_coefficients, Tensor? noise,"
        " Tensor? row_ids, Tensor? draw_ids, int K, float clip, int seed, int path) -> (Tensor x_0, Tensor states)"
    ),
    "fusion_chain": (
        "(Tensor h_long, Tensor mask, Tensor empty, Tensor shift, Tensor times, Tensor w_in, Tensor w_out, Tensor b_out,"
        " Tensor step_coefficients, Tensor? noise, Tensor? row_ids, Tensor? draw_ids, float w_un, float w_1, float w_2, int seed,"
        " int path) -> Tensor"
    ),
    "value_decode": (
        "(Tensor layers, Tensor embedding, Tensor head_w, Tensor head_b, Tensor? last, Tensor? position, Tensor values, Tensor constants,"
        " Tensor? capacity, Tensor? row_ids, Tensor? draw_ids, int d, int heads, int units, bool pre, bool gelu, float eps, int steps,"
        " int window, int mixup, bool windowed, float temperature, bool monotone, float cap, int seed)"
        " -> (Tensor value, Tensor tokens, Tensor lengths)"
    ),
}


def cuda_definitions() -> list[str]:
    """The schemas of the CUDA C++ kernels."""
    found = [name + schema for name, schema in CUDA_SCHEMAS.items()]
    for name in CUDA_OPS:
        forward, backward = SCHEMAS[name]
        found += [name + forward, f"{name}_backward{backward}"]
    return found
