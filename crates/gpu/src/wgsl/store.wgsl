// Keys and values of a pair of neighbouring positions into the cache; keys are turned first, and what
// the types want multiplied by a Hadamard matrix.
//
// In the cache lie, for each block and head, the elements of 16 positions one behind the other:
// f32, f16, or codes followed by the scales, [group of 32][16 positions] of f16. Two positions
// share a word of scales, so the workgroup that stores one of a pair is the only one that writes
// there, and keeps the half that is not new.
struct Params {
    head_dim: u32,
    n_heads: u32,
    x_stride: u32,
    n_pairs: u32, // that are turned
    pairs_halves: u32,
    turns_at: u32,
    pairs_at: u32,
    k_head_words: u32, // of 16 positions
    v_head_words: u32,
    k_hadamard: u32, // size of the matrix, a power of two; 1: none
    v_hadamard: u32,
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>; // keys
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read> batch: array<u32>;
@group(0) @binding(3) var<storage, read_write> k_cache: array<u32>;
@group(0) @binding(4) var<storage, read_write> v_cache: array<u32>;

const NONE = 0xffffffffu;
var<workgroup> heads: array<f32, 512>; // of two positions, up to 256 elements each
var<workgroup> scales: array<u32, 16>; // [position][group]

#include turn

// To half precision, to nearest, ties to even; as the cache of the CPU does it to the bit.
fn half_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let size = bits & 0x7fffffffu;
    if size > 0x7f800000u {
        return sign | 0x7e00u;
    }
    if size >= 0x47800000u {
        return sign | 0x7c00u;
    }
    if size < 0x38800000u {
        return sign | (bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u);
    }
    return sign | ((size - 0x38000000u + 0xfffu + ((size >> 13u) & 1u)) >> 13u);
}

// Each `len` elements of both heads times a Hadamard matrix, a factor of two of it at a time.
fn hadamard(len: u32, lid: u32) {
    if len == 1u {
        return;
    }
    let factor = 1.0 / sqrt(f32(len));
    for (var half = 1u; half < len; half *= 2u) {
        for (var i = lid; i < p.head_dim; i += 64u) {
            let is_second = i >= p.head_dim / 2u;
            let pair = select(i, i - p.head_dim / 2u, is_second);
            let at = select(0u, 256u, is_second) + pair / half * (2u * half) + pair % half;
            let scale = select(1.0, factor, half == 1u);
            let a = heads[at] * scale;
            let b = heads[at + half] * scale;
            heads[at] = a + b;
            heads[at + half] = a - b;
        }
        workgroupBarrier();
    }
}

#include store_k
#include store_v

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let is_key = wid.z == 0u;
    let job = p.pairs_at + 3u * wid.x;
    let slot = batch[job + 2u]; // of the first position, which is even
    for (var i = 0u; i < 2u; i += 1u) {
        let token = batch[job + i];
        if token != NONE {
            let at = token * p.x_stride + wid.y * p.head_dim;
            let turns = p.turns_at + token * 2u * p.n_pairs;
            for (var e = lid; e < p.head_dim; e += 64u) {
                if is_key {
                    heads[i * 256u + e] = turned(at, e, turns);
                } else {
                    heads[i * 256u + e] = values[at + e];
                }
            }
        }
    }
    workgroupBarrier();
    hadamard(select(p.v_hadamard, p.k_hadamard, is_key), lid);
    let head = (slot / 16u) * p.n_heads + wid.y;
    for (var i = 0u; i < 2u; i += 1u) {
        if batch[job + i] != NONE {
            if is_key {
                store_k(i, head * p.k_head_words, slot % 16u + i, lid);
            } else {
                store_v(i, head * p.v_head_words, slot % 16u + i, lid);
            }
        }
    }
    workgroupBarrier();
    let has_first = batch[job] != NONE;
    let has_second = batch[job + 1u] != NONE;
    if is_key {
        store_k_scales(has_first, has_second, head * p.k_head_words, slot % 16u, lid);
    } else {
        store_v_scales(has_first, has_second, head * p.v_head_words, slot % 16u, lid);
    }
}
