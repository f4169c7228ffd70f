// Not where e^x would be infinite: what a compiler makes of that is not promised.
fn exp_(x: f32) -> f32 {
    return exp(clamp(x, -87.0, 88.0));
}

// Some make NaN of the tanh of large numbers; from 15 on it is 1.
fn tanh_(x: f32) -> f32 {
    return tanh(clamp(x, -15.0, 15.0));
}

fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + tanh_(0.7978845608 * (x + 0.044715 * x * x * x)));
}
