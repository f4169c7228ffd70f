const $kv_GROUP_WORDS = 8u;

// A lane is a group: d = max |x| / 127, q = x / d to the nearest integer, halves away from zero.
fn store_$kv(i: u32, base: u32, position: u32, lid: u32) {
    let n_groups = p.head_dim / 32u;
    if lid >= n_groups {
        return;
    }
    let from_ = i * 256u + 32u * lid;
    var largest = 0.0;
    for (var e = 0u; e < 32u; e += 1u) {
        largest = max(largest, abs(heads[from_ + e]));
    }
    let d = largest / 127.0;
    let inverse = select(0.0, 1.0 / d, d != 0.0);
    scales[i * 8u + lid] = half_bits(d);
    let at = base + (position * n_groups + lid) * 8u;
    for (var e = 0u; e < 8u; e += 1u) {
        let first = from_ + 4u * e;
        let v = vec4<f32>(heads[first], heads[first + 1u], heads[first + 2u], heads[first + 3u]) * inverse;
        let q = vec4<i32>(sign(v) * floor(abs(v) + 0.5));
        let bytes = vec4<u32>(clamp(q, vec4<i32>(-128), vec4<i32>(127))) & vec4<u32>(255u);
        $kv_cache[at + e] = bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
    }
}
