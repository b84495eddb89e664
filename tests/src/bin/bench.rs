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
/// What `--only` takes: mail in, at Postroad or at its peer; out; read; and what single things cost.
const PARTS: [&str; 8] = ["postroad", "peer", "relay", "reading", "reading-postroad", "verdicts", "tracing", "journey"];

struct Options {
    quick: bool,
    sessions: usize,
    only: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self { quick: false, sessions: 20, only: None };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--sessions" => options.sessions = arguments.next()?.parse().ok().filter(|n| (1..=40).contains(n))?,
                "--only" => options.only = Some(arguments.next().filter(|part| PARTS.contains(&part.as_str()))?),
                _ => return None,
            }
        }
        Some(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == part)
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
        eprintln!("usage: bench [--quick] [--sessions N] [--only {}]", PARTS.join("|"));
        return ExitCode::FAILURE;
    };
    let run = Run { text: Arc::new(Text::generate()), sessions: options.sessions };
    let part = if options.quick { 10 } else { 1 };
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    if options.wants("peer") {
        theirs = all(&run, &options, peer::PostfixDovecot::start().await).await;
    }
    if options.wants("postroad") {
        ours = all(&run, &options, subject::Postroad::start().await).await;
    }
    let pairs: Vec<report::Pair> =
        theirs.into_iter().zip(ours).map(|(peer, ours)| report::Pair { peer, ours }).collect();
    if !pairs.is_empty() {
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        println!("\nInbound delivery, {} sessions, {processors} CPUs; ratios above 1 are ours\n", run.sessions);
        println!("{}", report::table("Postfix + Dovecot", "Postroad", &pairs));
    }
    if options.wants("relay") {
        println!("{}", relay::compare(&run, part).await);
    }
    let mut lines = Vec::new();
    if options.wants("reading") || options.wants("reading-postroad") {
        let (table, figures) = retrieval::compare(&run, part, options.wants("reading")).await;
        println!("{table}");
        lines = figures;
    }
    if options.wants("verdicts") {
        println!("{}", verdicts::report(&run.text, part).await);
    }
    if options.wants("tracing") {
        println!("{}", tracing::compare(&run, options.sizes()).await);
    }
    if options.wants("journey") {
        println!("{}", journey::measure(if options.quick { 100_000 } else { 10_000_000 }).await);
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
