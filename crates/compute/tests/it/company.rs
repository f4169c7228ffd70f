//! Which bits a sequence gets, whatever it is computed with.

use minerva_compute::conformance::{Random, VOCAB, decoder};
use minerva_compute::cpu::Isa;
use minerva_compute::{Backend, Batch, DType, KvType, KvTypes, Limits, Pairing, Sequence};

use crate::programs::{LIMITS, SHAPE, cpu, run, tokens};

/// One of some.
fn choose<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[(random.number() % of.len() as u64) as usize]
}

/// Each alone, in one slice and by one thread, and then some of them in each batch, in any order, a few tokens
/// or many, by some threads and other instructions: for every type of weights and some of the cache.
#[test]
fn neither_company_slices_threads_nor_instructions_change_a_bit() {
    for &dtype in DType::ALL {
        for seed in 0..4 {
            check(dtype, seed);
        }
    }
}

fn check(dtype: DType, seed: u64) {
    const LEN: usize = 32;
    let random = &mut Random(seed << 32 | u64::from(dtype.id()));
    let program = decoder(dtype, &SHAPE, Pairing::Halves);
    let limits = Limits {
        max_tokens: 3 * LEN,
        max_outputs: 3 * LEN,
        n_kv_blocks: 8,
        kv_types: KvTypes {
            k: choose(random, KvType::ALL),
            v: choose(random, KvType::ALL),
        },
        ..LIMITS
    };
    let isas = Isa::available();
    let load = |random: &mut Random, n_threads| {
        let backend = cpu(choose(random, &isas), n_threads);
        backend.load(program.clone(), limits).unwrap()
    };
    let blocks = [[6, 1], [0, 7], [3, 2]];
    let sequences = [10, 20, 30].map(|base| {
        let n = 1 + (random.number() % LEN as u64) as usize;
        tokens(n, seed + base)
    });
    let alone: Vec<Vec<f32>> = sequences
        .iter()
        .zip(&blocks)
        .map(|(tokens, blocks)| run(&mut *load(random, 1), tokens, &[tokens.len()], blocks))
        .collect();

    let n_threads = choose(random, &[1, 2, 3, 5]);
    let mut model = load(random, n_threads);
    let mut done = [0; 3];
    while (0..3).any(|i| done[i] < sequences[i].len()) {
        let first = choose(random, &[0, 1, 2]);
        let (mut batch_tokens, mut parts) = (Vec::new(), Vec::new());
        let (mut outputs, mut wanted) = (Vec::new(), Vec::new());
        for i in [first, (first + 1) % 3, (first + 2) % 3] {
            let left = sequences[i].len() - done[i];
            let n = left.min(choose(random, &[0, 1, 1, 2, 3, 6, 11, LEN]));
            for (j, token) in sequences[i][done[i]..][..n].iter().enumerate() {
                if choose(random, &[true, false]) {
                    outputs.push(batch_tokens.len() as u32);
                    wanted.push((i, done[i] + j));
                }
                batch_tokens.push(*token);
            }
            if n > 0 {
                parts.push(Sequence {
                    n_tokens: n,
                    start: done[i],
                    blocks: &blocks[i],
                });
            }
            done[i] += n;
        }
        if parts.is_empty() {
            continue;
        }
        let logits = model.run(&Batch {
            tokens: &batch_tokens,
            sequences: &parts,
            outputs: &outputs,
            input: &[],
        });
        for (got, (i, position)) in logits.unwrap().chunks(VOCAB).zip(wanted) {
            assert!(
                got == &alone[i][position * VOCAB..][..VOCAB],
                "{dtype}, seed {seed}, {n_threads} threads: token {position} of sequence {i}, beside {parts:?}"
            );
        }
    }
}
