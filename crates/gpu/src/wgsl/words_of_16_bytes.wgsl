// Of blocks of whole 16 bytes, which are read at once.
@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;

fn nth_word(i: u32) -> u32 {
    return w[i >> 2u][i & 3u];
}

// The four words at a byte that is a multiple of sixteen.
fn words4(at: u32) -> vec4<u32> {
    return w[at >> 4u];
}
