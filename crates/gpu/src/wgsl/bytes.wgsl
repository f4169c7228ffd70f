// Rows as bytes, for products through integer dots: of each 32 elements the largest is 32639 times a
// factor, and the others are whole multiples of it, 256 * high + low. Each 32 groups have four vec4 of
// each one behind the other: the first sixteen elements' high bytes, the others', and the same of the low
// ones, so that lanes with a group each read neighbours. Behind a row's groups there is a vec4 for each:
// the factor, the sum of the first sixteen elements and of the others, and, where what reads them divides
// by the norm, the sum of squares of what the elements were before the norm's weights.
const MOST = 32639.0; // 127 * 256 + 127

#include eight_lanes

// Vectors of four words from one row to the next.
fn bytes_stride(n_groups: u32) -> u32 {
    return 5u * n_groups;
}

// Writes the i-th four elements of a row that begins at a word of $out. Eight lanes with a group must call
// it together, and all of the workgroup; those behind the row's end write nothing.
fn write_bytes(row: u32, n_groups: u32, i: u32, v: vec4<f32>, lid: u32) {
    let bits = bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu);
    // Bits are in the order of the numbers.
    let top_bits = eight_max(max(max(bits.x, bits.y), max(bits.z, bits.w)), lid);
    let top = bitcast<f32>(top_bits);
    // What is neither makes the products so, too; what is next to nothing is nothing.
    let is_finite = top_bits < 0x7f800000u;
    let inverse = select(0.0, MOST / top, is_finite && top > 1e-30);
    let q = vec4<i32>(clamp(round(v * inverse), vec4<f32>(-MOST), vec4<f32>(MOST)));
    let sums = half_sums(q.x + q.y + q.z + q.w, lid);
    if i < 8u * n_groups {
        let low = ((q + vec4<i32>(128)) & vec4<i32>(255)) - vec4<i32>(128);
        let high = (q - low) >> vec4<u32>(8u);
        let g = i / 8u;
        let k = i % 8u;
        let n = min(n_groups - g / 32u * 32u, 32u);
        let at = row + (g / 32u * 128u + k / 4u * n + g % 32u) * 4u + k % 4u;
        $out[at] = pack4xI8(high);
        $out[at + 8u * n] = pack4xI8(low);
        if k == 0u {
            let factor = select(top, top / MOST, is_finite);
            let factors = row + (4u * n_groups + g) * 4u;
            $out[factors] = bitcast<u32>(factor);
            $out[factors + 1u] = bitcast<u32>(factor * f32(sums.x));
            $out[factors + 2u] = bitcast<u32>(factor * f32(sums.y));
        }
    }
}
