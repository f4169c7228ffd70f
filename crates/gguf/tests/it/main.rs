//! Tests of whole files: what is refused and how, round trips, damage, and split models.

mod damage;
mod errors;
mod raw;
mod round_trip;
mod split;
