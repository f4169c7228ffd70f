// Four digits of four bytes. A byte is a fraction of 256 in base 3.
fn digits(at: u32, digit: u32) -> u32 {
    var power = 1u;
    for (var i = 0u; i < digit; i += 1u) {
        power *= 3u;
    }
    let fraction = (unpack4xU8(bytes4(at)) * power) & vec4<u32>(255u);
    let values = (fraction * 3u) >> vec4<u32>(8u);
    return values.x | (values.y << 8u) | (values.z << 16u) | (values.w << 24u);
}

// Three runs: 32 bytes of five digits, 16 bytes of five, 4 bytes of four; first digits first.
fn piece(block: u32, s: u32, k: u32) -> u32 {
    var at = 4u * k;
    var digit = s;
    if s == 7u && k >= 4u {
        at = 48u;
        digit = k - 4u;
    } else if s >= 5u {
        at = 32u + 4u * (k % 4u);
        digit = 2u * (s - 5u) + k / 4u;
    }
    return digits(block + at, digit);
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let d = f16_at(block + 52u);
    return Codes(
        piece(block, s, 0u), piece(block, s, 1u), piece(block, s, 2u), piece(block, s, 3u),
        piece(block, s, 4u), piece(block, s, 5u), piece(block, s, 6u), piece(block, s, 7u),
        vec2<f32>(d), vec2<f32>(-d)
    );
}
