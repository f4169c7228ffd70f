// A weight's bytes, and how they are taken apart: 32 elements of a row at a time.
struct Elements {
    v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>,
    v4: vec4<f32>, v5: vec4<f32>, v6: vec4<f32>, v7: vec4<f32>,
}

// The same as signed bytes, four to a word: an element is d times its code and m; x of the first sixteen
// elements, y of the others.
struct Codes {
    c0: u32, c1: u32, c2: u32, c3: u32, c4: u32, c5: u32, c6: u32, c7: u32,
    d: vec2<f32>, m: vec2<f32>,
}

// The word that a byte is in.
fn word(at: u32) -> u32 {
    return nth_word(at >> 2u);
}

// The four bytes from any byte on. Shifting the upper word by one first keeps both shifts below 32.
fn bytes4(at: u32) -> u32 {
    let i = at >> 2u;
    let s = (at & 3u) * 8u;
    return (nth_word(i) >> s) | ((nth_word(i + 1u) << 1u) << (31u - s));
}

// The same from an even byte on.
fn halves4(at: u32) -> u32 {
    let i = at >> 2u;
    return select(nth_word(i), (nth_word(i) >> 16u) | (nth_word(i + 1u) << 16u), (at & 2u) != 0u);
}

fn byte_at(at: u32) -> u32 {
    return (word(at) >> ((at & 3u) * 8u)) & 0xffu;
}

// The 16 bits at an even byte.
fn half_at(at: u32) -> u32 {
    return (word(at) >> ((at & 2u) * 8u)) & 0xffffu;
}

fn f16_at(at: u32) -> f32 {
    return unpack2x16float(half_at(at)).x;
}

fn signed4(bytes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(bytes));
}

fn low4(bytes: u32) -> u32 {
    return bytes & 0x0f0f0f0fu;
}

fn high4(bytes: u32) -> u32 {
    return (bytes >> 4u) & 0x0f0f0f0fu;
}

// The lowest four bits, a byte each. No two bits of the product meet.
fn spread4(bits: u32) -> u32 {
    return ((bits & 15u) * 0x00204081u) & 0x01010101u;
}

// Four bytes of a table by the lowest halves of four bytes.
fn looked_up(codes: u32) -> u32 {
    return grid[codes & 15u] | (grid[(codes >> 8u) & 15u] << 8u)
        | (grid[(codes >> 16u) & 15u] << 16u) | (grid[(codes >> 24u) & 15u] << 24u);
}

// Four positive values of a grid, negated where the bit of the element is set. As none is 0, no byte
// carries into the next.
fn with_signs(values: u32, bits: u32) -> u32 {
    let negative = spread4(bits);
    return (values ^ (negative * 255u)) + negative;
}

// Eight sign bits from seven: the number of negative elements is even.
fn parity_signs(code: u32) -> u32 {
    let low = code & 0x7fu;
    return low | ((countOneBits(low) & 1u) << 7u);
}
