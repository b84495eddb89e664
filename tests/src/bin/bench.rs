//! `make bench`: how fast mail comes in, beside Postfix and Dovecot (docs/benchmarks.md).
//!
//! `bench [--quick] [--sessions N] [--only postroad|peer|relay|verdicts]`. Ends well unless something failed;
//! no figure is a failure.

#![allow(clippy::print_stdout, reason = "its figures are its output")]

use std::{process::ExitCode, sync::Arc};

use tests::bench::{Measure, Run, Size, Subject, mail::Text, measure, peer, relay, report, subject, verdicts};

const SIZES: [Size; 3] =
    [Size { bytes: 1_000, count: 3_000 }, Size { bytes: 10_000, count: 2_000 }, Size { bytes: 100_000, count: 500 }];
const USAGE: &str = "usage: bench [--quick] [--sessions N] [--only postroad|peer|relay|verdicts]";

struct Options {
    quick: bool,
    sessions: usize,
    peer: bool,
    postroad: bool,
    relay: bool,
    verdicts: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self { quick: false, sessions: 20, peer: true, postroad: true, relay: true, verdicts: true };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--sessions" => options.sessions = arguments.next()?.parse().ok().filter(|n| (1..=40).contains(n))?,
                "--only" => match arguments.next()?.as_str() {
                    "postroad" => (options.peer, options.relay, options.verdicts) = (false, false, false),
                    "peer" => (options.postroad, options.relay, options.verdicts) = (false, false, false),
                    "relay" => (options.peer, options.postroad, options.verdicts) = (false, false, false),
                    "verdicts" => (options.peer, options.postroad, options.relay) = (false, false, false),
                    _ => return None,
                },
                _ => return None,
            }
        }
        Some(options)
    }

    fn sizes(&self) -> [Size; 3] {
        let part = if self.quick { 10 } else { 1 };
        SIZES.map(|size| Size { count: size.count / part, ..size })
    }
}

/// One thread sends, and little else runs here: the processors are for the servers.
#[tokio::main(worker_threads = 1)]
async fn main() -> ExitCode {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let run = Run { text: Arc::new(Text::generate()), sessions: options.sessions };
    if options.verdicts {
        println!("{}", verdicts::report(&run.text, if options.quick { 10 } else { 1 }).await);
    }
    if options.relay {
        println!("{}", relay::compare(&run, if options.quick { 10 } else { 1 }).await);
    }
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    if options.peer {
        theirs = all(&run, &options, peer::PostfixDovecot::start().await).await;
    }
    if options.postroad {
        ours = all(&run, &options, subject::Postroad::start().await).await;
    }
    let pairs: Vec<report::Pair> =
        theirs.into_iter().zip(ours).map(|(peer, ours)| report::Pair { peer, ours }).collect();
    if !pairs.is_empty() {
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        println!("\nInbound delivery, {} sessions, {processors} CPUs; ratios above 1 are ours\n", run.sessions);
        println!("{}", report::table("Postfix + Dovecot", "Postroad", &pairs));
        let build = std::env::current_exe().expect("a path");
        let file = build.ancestors().nth(2).expect("target/release/bench").join("bench.jsonl");
        report::write(&file, &pairs).expect("the target directory can be written");
        println!("written to {}", file.display());
    }
    ExitCode::SUCCESS
}

async fn all(run: &Run, options: &Options, mut subject: impl Subject) -> Vec<Measure> {
    let mut measures = Vec::new();
    for size in options.sizes() {
        let measured = measure(run, &mut subject, size).await;
        println!("{}", report::line(subject.name(), &measured));
        measures.push(measured);
    }
    measures
}
