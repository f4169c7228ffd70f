// Four elements of a position's head.
fn load_$kv(base: u32, position: u32, i: u32) -> vec4<f32> {
    let at = base + position * (p.$kv_head_words / 16u) + 2u * i;
    let a = unpack2x16float($kv_cache[at]);
    let b = unpack2x16float($kv_cache[at + 1u]);
    return vec4<f32>(a.x, a.y, b.x, b.y);
}
