//! A plain fuzzer: inputs made from a corpus of the protocols' own words, deterministic by seed.
//!
//! Every target states properties, not only that nothing panics: the same octets in other pieces
//! give the same outcome, memory stays bounded, and an oracle written another way agrees on where
//! a message ends.

mod generator;
mod sieve_targets;
mod smtp_targets;
mod targets;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use generator::Generator;

/// A target reads an input; it panics when a property does not hold.
type Target = fn(&mut Generator, &[u8]);

const TARGETS: [(&str, Target); 12] = [
    ("smtp session", smtp_targets::session),
    ("smtp end of data", smtp_targets::end_of_data),
    ("smtp chunks", smtp_targets::chunks),
    ("smtp commands", smtp_targets::commands),
    ("proxy header", targets::proxy_header),
    ("sasl", targets::sasl),
    ("message", targets::message),
    ("imap", targets::imap),
    ("pop3", targets::pop3),
    ("milter", targets::milter),
    ("sieve", sieve_targets::sieve),
    ("managesieve", sieve_targets::managesieve),
];
/// An input that takes longer than this has found a way to burn our CPU.
const SLOW: Duration = Duration::from_secs(2);

/// Whether every property held; prints what it did, and the input that broke one.
#[allow(clippy::print_stdout, reason = "a program of the command line")]
pub fn run(time: Duration, seed: u64) -> bool {
    println!("seed {seed}, {} s", time.as_secs());
    let started = Instant::now();
    let mut counts = [0u64; TARGETS.len()];
    let mut number = seed;
    while started.elapsed() < time {
        for (index, (name, target)) in TARGETS.iter().enumerate() {
            number = number.wrapping_add(1);
            let mut generator = Generator::new(number);
            let input = generator.input();
            let began = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| target(&mut generator, &input)));
            counts[index] += 1;
            if outcome.is_err() || began.elapsed() > SLOW {
                println!("{name} broke ({:?}) on input {number} (seed {number} repeats it first):", began.elapsed());
                println!("{}", input.escape_ascii());
                return false;
            }
        }
    }
    for ((name, _), count) in TARGETS.iter().zip(counts) {
        println!("{name}: {count} inputs");
    }
    println!("no property was broken");
    true
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_second_of_fuzz_breaks_nothing() {
        assert!(super::run(std::time::Duration::from_secs(1), 1));
    }
}
