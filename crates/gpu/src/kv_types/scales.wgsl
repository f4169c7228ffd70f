// The scales of both positions, of which one may stay what it is.
fn store_$kv_scales(has_first: bool, has_second: bool, base: u32, position: u32, lid: u32) {
    let n_groups = p.head_dim / 32u;
    if lid < n_groups {
        let at = base + 16u * n_groups * $kv_GROUP_WORDS + lid * 8u + position / 2u;
        var both = $kv_cache[at];
        if has_first {
            both = (both & 0xffff0000u) | scales[lid];
        }
        if has_second {
            both = (both & 0x0000ffffu) | (scales[8u + lid] << 16u);
        }
        $kv_cache[at] = both;
    }
}
