// Scale and minimum of a group of Q4_K and Q5_K, from the first 16 bytes of its block.
fn scale_and_min(block: u32, s: u32) -> vec2<f32> {
    let factors = unpack2x16float(word(block));
    let shift = 8u * (s % 4u);
    let first = word(block + 4u) >> shift;
    let second = word(block + 8u) >> shift;
    let both = word(block + 12u) >> shift;
    let early = vec2<u32>(first & 63u, second & 63u);
    let late = vec2<u32>(
        (both & 15u) | (((first >> 6u) & 3u) << 4u),
        ((both >> 4u) & 15u) | (((second >> 6u) & 3u) << 4u)
    );
    return factors * vec2<f32>(select(late, early, s < 4u));
}
