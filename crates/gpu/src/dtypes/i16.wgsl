fn four_at(at: u32) -> vec4<f32> {
    let a = halves4(at);
    let b = halves4(at + 4u);
    let words = vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u);
    // Bits in the upper half are worth 2^16 as much.
    return vec4<f32>(bitcast<vec4<i32>>(words)) / 65536.0;
}
