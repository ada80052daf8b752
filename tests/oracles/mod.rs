//! Second hands: naive oracles that were written from the documents and not from the code. The property tests take
//! one each; the fuzz targets take them all.

pub mod deflate;
pub mod envelope;
pub mod frames;
