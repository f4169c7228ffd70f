// Four elements of a position's head.
fn load_$kv(base: u32, position: u32, i: u32) -> vec4<f32> {
    let at = base + position * (p.$kv_head_words / 16u) + 4u * i;
    return bitcast<vec4<f32>>(vec4<u32>($kv_cache[at], $kv_cache[at + 1u], $kv_cache[at + 2u], $kv_cache[at + 3u]));
}
