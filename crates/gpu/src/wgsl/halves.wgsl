enable f16;
// Rows in f16, for matrix units that take no more: each divided by a power of two, so that its largest
// element has some 2^8, far from what f16 cannot hold. Zeros follow up to a multiple of 64 elements, then
// the divisor, and three halves and a vec4 that nobody reads.
struct Params {
    row_len: u32,
    x_is_interleaved: u32,
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f16>>;

var<workgroup> largest: array<f32, 256>;

#include interleave

// The i-th four elements of a row; behind its end zeros.
fn four(row: u32, i: u32) -> vec4<f32> {
    if 4u * i >= p.row_len {
        return vec4<f32>(0.0);
    }
    let v = x[row * ((p.row_len + 3u) / 4u) + place(4u * i, p.row_len, p.x_is_interleaved) / 4u];
    let e = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), v, e < vec4<u32>(p.row_len));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let row = wid.y;
    let n = (p.row_len + 63u) / 64u * 16u;
    var top = vec4<f32>(0.0);
    for (var i = lid; i < n; i += 256u) {
        top = max(top, abs(four(row, i)));
    }
    largest[lid] = max(max(top.x, top.y), max(top.z, top.w));
    workgroupBarrier();
    for (var m = 128u; m > 0u; m /= 2u) {
        if lid < m {
            largest[lid] = max(largest[lid], largest[lid + m]);
        }
        workgroupBarrier();
    }
    // The divisor is a normal number of f16.
    let exponent = clamp(i32(bitcast<u32>(largest[0]) >> 23u) - 127 - 8, -14, 15);
    let factor = bitcast<f32>(u32(127 - exponent) << 23u);
    let at = row * (n + 2u);
    for (var i = lid; i < n; i += 256u) {
        out[at + i] = vec4<f16>(four(row, i) * factor);
    }
    if lid == 0u {
        out[at + n] = vec4<f16>(vec4<f32>(1.0 / factor));
    }
}
