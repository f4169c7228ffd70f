alias Out = u32;
#include bytes

// Writes the row whose elements begin at an index of x, as bytes.
fn write_normed(at: u32, mean: f32, scale: f32, lid: u32) {
    let n_groups = p.len / 32u;
    let row = 4u * bytes_stride(n_groups) * (at / p.stride);
    for (var first = 0u; first < p.len / 4u; first += LANES) {
        let i = first + lid;
        let v = vec4<f32>(
            normed(at, 4u * i, mean, scale), normed(at, 4u * i + 1u, mean, scale),
            normed(at, 4u * i + 2u, mean, scale), normed(at, 4u * i + 3u, mean, scale)
        );
        write_bytes(row, n_groups, i, v, lid);
    }
}
