// A weight's bytes, and how they are taken apart: 32 elements of a row at a time.
struct Elements {
    v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>,
    v4: vec4<f32>, v5: vec4<f32>, v6: vec4<f32>, v7: vec4<f32>,
}

// The word at a byte that is a multiple of four.
fn word(at: u32) -> u32 {
    return w[at >> 2u];
}

// The four bytes from any byte on. Shifting the upper word by one first keeps both shifts below 32.
fn bytes4(at: u32) -> u32 {
    let i = at >> 2u;
    let s = (at & 3u) * 8u;
    return (w[i] >> s) | ((w[i + 1u] << 1u) << (31u - s));
}

// The same from an even byte on.
fn halves4(at: u32) -> u32 {
    let i = at >> 2u;
    return select(w[i], (w[i] >> 16u) | (w[i + 1u] << 16u), (at & 2u) != 0u);
}

fn byte_at(at: u32) -> u32 {
    return (w[at >> 2u] >> ((at & 3u) * 8u)) & 0xffu;
}

// The 16 bits at an even byte.
fn half_at(at: u32) -> u32 {
    return (w[at >> 2u] >> ((at & 2u) * 8u)) & 0xffffu;
}

fn f16_at(at: u32) -> f32 {
    return unpack2x16float(half_at(at)).x;
}

fn unsigned4(bytes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(bytes));
}

fn signed4(bytes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(bytes));
}

fn low4(bytes: u32) -> vec4<f32> {
    return unsigned4(bytes & 0x0f0f0f0fu);
}

fn high4(bytes: u32) -> vec4<f32> {
    return unsigned4((bytes >> 4u) & 0x0f0f0f0fu);
}

// The lowest four bits as numbers.
fn bits4(bits: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(bits) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u));
}

// The lowest four pairs of bits as numbers.
fn pairs4(bits: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(bits) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u));
}

// Four values of a table of f32 by the lowest halves of four bytes.
fn looked_up(codes: u32) -> vec4<f32> {
    return vec4<f32>(
        bitcast<f32>(grid[codes & 15u]),
        bitcast<f32>(grid[(codes >> 8u) & 15u]),
        bitcast<f32>(grid[(codes >> 16u) & 15u]),
        bitcast<f32>(grid[(codes >> 24u) & 15u]),
    );
}

// Four values of a grid, negated where the bit of the element is set.
fn with_signs(values: u32, bits: u32) -> vec4<f32> {
    return signed4(values) * (vec4<f32>(1.0) - 2.0 * bits4(bits));
}

// Eight sign bits from seven: the number of negative elements is even.
fn parity_signs(code: u32) -> u32 {
    let low = code & 0x7fu;
    return low | ((countOneBits(low) & 1u) << 7u);
}
