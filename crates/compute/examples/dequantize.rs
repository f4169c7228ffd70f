//! Reads blocks of a data type from stdin and writes their elements to stdout as little-endian f32.
//!
//! `scripts/compare_dtypes.py` compares the result with other readers of the format:
//! `cargo run --release -p minerva-compute --example dequantize -- Q4_K < blocks > floats`

use std::error::Error;
use std::io::{Read, Write};

use minerva_compute::dtype::DType;

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args()
        .nth(1)
        .ok_or("usage: dequantize TYPE < blocks > floats")?;
    let dtype = DType::from_name(&name).ok_or_else(|| format!("unknown data type: {name}"))?;
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    if !bytes.len().is_multiple_of(dtype.block_bytes()) {
        let (found, wanted) = (bytes.len(), dtype.block_bytes());
        return Err(format!("{found} bytes of {dtype}, expected a multiple of {wanted}").into());
    }
    let mut row = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    dtype.dequantize_row(&bytes, &mut row);
    let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::io::stdout().write_all(&bytes)?;
    Ok(())
}
