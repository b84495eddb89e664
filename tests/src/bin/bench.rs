//! `make bench`: how fast mail comes in and out, beside Postfix and Dovecot (docs/benchmarks.md).
//!
//! `bench [--quick] [--sessions N] [--only PART]`. Ends well unless something failed;
//! no figure is a failure.

#![allow(clippy::print_stdout, reason = "its figures are its output")]

use std::{process::ExitCode, sync::Arc};

use tests::bench::{
    Measure, Run, Size, Subject, journey, mail::Text, measure, peer, relay, report, retrieval, subject, tracing,
    verdicts,
};

const SIZES: [Size; 3] =
    [Size { bytes: 1_000, count: 3_000 }, Size { bytes: 10_000, count: 2_000 }, Size { bytes: 100_000, count: 500 }];
const USAGE: &str = "usage: bench [--quick] [--sessions N] \
    [--only postroad|peer|relay|reading|reading-postroad|tracing|journey|verdicts]";

struct Options {
    quick: bool,
    sessions: usize,
    peer: bool,
    postroad: bool,
    relay: bool,
    reading: bool,
    /// Dovecot beside it.
    reading_peer: bool,
    tracing: bool,
    journey: bool,
    verdicts: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            quick: false,
            sessions: 20,
            peer: true,
            postroad: true,
            relay: true,
            reading: true,
            reading_peer: true,
            tracing: true,
            journey: true,
            verdicts: true,
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--sessions" => options.sessions = arguments.next()?.parse().ok().filter(|n| (1..=40).contains(n))?,
                "--only" => {
                    let only = arguments.next()?;
                    if !["postroad", "peer", "relay", "reading", "reading-postroad", "tracing", "journey", "verdicts"]
                        .contains(&only.as_str())
                    {
                        return None;
                    }
                    options.peer = only == "peer";
                    options.postroad = only == "postroad";
                    options.relay = only == "relay";
                    options.reading = matches!(only.as_str(), "reading" | "reading-postroad");
                    options.reading_peer = only == "reading";
                    options.tracing = only == "tracing";
                    options.journey = only == "journey";
                    options.verdicts = only == "verdicts";
                }
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
    let part = if options.quick { 10 } else { 1 };
    if options.verdicts {
        println!("{}", verdicts::report(&run.text, if options.quick { 10 } else { 1 }).await);
    }
    if options.relay {
        println!("{}", relay::compare(&run, part).await);
    }
    let mut lines = Vec::new();
    if options.reading {
        let (table, figures) = retrieval::compare(&run, part, options.reading_peer).await;
        println!("{table}");
        lines = figures;
    }
    if options.tracing {
        println!("{}", tracing::compare(&run, options.sizes()).await);
    }
    if options.journey {
        println!("{}", journey::measure(if options.quick { 100_000 } else { 10_000_000 }).await);
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
    }
    if !pairs.is_empty() || !lines.is_empty() {
        let build = std::env::current_exe().expect("a path");
        let file = build.ancestors().nth(2).expect("target/release/bench").join("bench.jsonl");
        report::write(&file, &pairs, &lines).expect("the target directory can be written");
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
