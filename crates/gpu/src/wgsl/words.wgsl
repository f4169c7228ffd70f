@group(0) @binding(0) var<storage, read> w: array<u32>;

fn nth_word(i: u32) -> u32 {
    return w[i];
}
