// Four elements of a position's head.
fn load_$kv(base: u32, position: u32, i: u32) -> vec4<f32> {
    let n_groups = p.head_dim / 32u;
    let scale_word = $kv_cache[base + 128u * n_groups + (i / 8u) * 8u + position / 2u];
    let d = unpack2x16float(scale_word >> (16u * (position % 2u))).x;
    return d * vec4<f32>(unpack4xI8($kv_cache[base + position * n_groups * 8u + i]));
}
