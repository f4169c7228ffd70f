// Scale and minimum of a group of Q4_K and Q5_K, from the first 16 bytes of its block.
fn scale_and_min(block: u32, s: u32) -> vec2<f32> {
    let words = words4(block);
    let factors = unpack2x16float(words.x);
    let bits = words >> vec4<u32>(8u * (s % 4u));
    let early = vec2<u32>(bits.y, bits.z) & vec2<u32>(63u);
    let late = vec2<u32>(
        (bits.w & 15u) | (((bits.y >> 6u) & 3u) << 4u),
        ((bits.w >> 4u) & 15u) | (((bits.z >> 6u) & 3u) << 4u)
    );
    return factors * vec2<f32>(select(late, early, s < 4u));
}

// The nibbles of sixteen bytes that a group of a pair has.
fn nibbles(at: u32, s: u32) -> vec4<u32> {
    return (words4(at) >> vec4<u32>(4u * (s % 2u))) & vec4<u32>(0x0f0f0f0fu);
}
