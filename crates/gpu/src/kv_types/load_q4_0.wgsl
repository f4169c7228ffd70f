// Four elements of a position's head.
fn load_$kv(base: u32, position: u32, i: u32) -> vec4<f32> {
    let n_groups = p.head_dim / 32u;
    let scale_word = $kv_cache[base + 64u * n_groups + (i / 8u) * 8u + position / 2u];
    let d = unpack2x16float(scale_word >> (16u * (position % 2u))).x;
    let codes = $kv_cache[base + (position * n_groups + i / 8u) * 4u + i % 4u];
    let shift = 4u * ((i / 4u) % 2u);
    return d * (vec4<f32>(unpack4xU8((codes >> shift) & 0x0f0f0f0fu)) - 8.0);
}
