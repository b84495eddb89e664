//! Many sessions on three gateways against a model in memory (Invariant 5).
//!
//! `IMAP_MODEL_COMMANDS` says how many commands (default 2,400), `IMAP_MODEL_SEED` repeats a run.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use tests::{
    imap::{Flags, Imap, code, numbers},
    site::{Options, Site, free_port_offset},
};

const SESSIONS: usize = 8;
const BOXES: [&str; 2] = ["INBOX", "Other"];
/// Commands of each session in a burst.
const BURST: usize = 25;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: expected a number")))
}

/// What a session is: its connection and which mailbox it has selected.
struct Session {
    imap: Imap,
    at: usize,
    number: usize,
}

impl Session {
    fn keyword(&self) -> String {
        format!("k{}", self.number)
    }
}

/// A mailbox as it has to be.
#[derive(Default, Clone)]
struct Mailbox {
    messages: BTreeMap<u32, Flags>,
    last_uid: u32,
}

impl Mailbox {
    fn add(&mut self, uid: u32, flags: Flags) {
        assert!(uid > self.last_uid, "UID {uid} after {}", self.last_uid);
        self.last_uid = uid;
        self.messages.insert(uid, flags);
    }
}

/// One command at a time, in whatever session: the model says exactly what must come out.
async fn step(random: &mut Random, sessions: &mut [Session], boxes: &mut [Mailbox; 2]) {
    let session = &mut sessions[random.below(SESSIONS)];
    let at = session.at;
    let known = session.imap.view.clone();
    match random.below(11) {
        0..=2 => {
            let target = random.below(2);
            let flags = random.pick(&["", "\\Seen", "\\Flagged kx"]);
            let command = format!("APPEND {} ({flags}) {{14+}}\r\nSubject: x\r\n\r\n", BOXES[target]);
            let answer = session.imap.ok(&command).await;
            let uid = code(&answer, "APPENDUID").unwrap()[1].parse().unwrap();
            boxes[target].add(uid, flags.split_whitespace().map(str::to_owned).collect());
        }
        3..=5 if !known.is_empty() => {
            let (first, last) = (random.below(known.len()), random.below(known.len()));
            let (first, last) = (first.min(last), first.max(last));
            let flag = random.pick(&["\\Seen", "\\Deleted", "\\Flagged", "kx", "KX"]);
            let mode = random.pick(&["+FLAGS", "-FLAGS", "+FLAGS.SILENT"]);
            session.imap.ok(&format!("STORE {}:{} {mode} ({flag})", first + 1, last + 1)).await;
            for uid in &known[first..=last] {
                let Some(flags) = boxes[at].messages.get_mut(uid) else { continue };
                let same = flags.iter().find(|f| f.eq_ignore_ascii_case(flag)).cloned();
                match (mode.starts_with('+'), same) {
                    (true, None) => drop(flags.insert(flag.to_owned())),
                    (false, Some(same)) => drop(flags.remove(&same)),
                    _ => {}
                }
                // Told by the answer, or not because it was silent.
                session.imap.flags.insert(*uid, flags.clone());
            }
        }
        6 => {
            session.imap.ok("EXPUNGE").await;
            boxes[at].messages.retain(|_, flags| !flags.contains("\\Deleted"));
        }
        7 | 8 if !known.is_empty() => {
            let uid = random.pick(&known);
            let (verb, target) = (random.pick(&["COPY", "MOVE"]), 1 - at);
            let answer = session.imap.ok(&format!("UID {verb} {uid} {}", BOXES[target])).await;
            let copied = code(&answer, "COPYUID").map(|c| numbers(c[2])[0]);
            assert_eq!(copied.is_some(), boxes[at].messages.contains_key(&uid), "{answer}");
            if let Some(copy) = copied {
                let flags = boxes[at].messages[&uid].clone();
                boxes[target].add(copy, flags);
                if verb == "MOVE" {
                    boxes[at].messages.remove(&uid);
                }
            }
        }
        9 => {
            session.at = random.below(2);
            session.imap.select(BOXES[session.at]).await;
        }
        _ => drop(session.imap.ok("SEARCH SEEN").await),
    }
    session.imap.sync().await;
    agree(session, &boxes[session.at]);
}

fn agree(session: &Session, model: &Mailbox) {
    let uids: Vec<u32> = model.messages.keys().copied().collect();
    assert_eq!(session.imap.view, uids, "messages of {} in session {}", BOXES[session.at], session.number);
    assert_eq!(session.imap.flags, model.messages, "flags of {} in session {}", BOXES[session.at], session.number);
}

/// What one session did while all others were busy too.
#[derive(Default)]
struct Done {
    added: [BTreeSet<u32>; 2],
    removed: [BTreeSet<u32>; 2],
    /// Whoever expunges takes these along, also without knowing them.
    flagged: BTreeSet<u32>,
    /// Into which mailbox, as which UID, from which UID of the other: \Deleted travels along.
    moved: Vec<(usize, u32, u32)>,
    /// Of the session's own keyword: nobody else touches it.
    keyword: BTreeMap<u32, bool>,
}

async fn burst(session: &mut Session, mut random: Random) -> Done {
    let mut done = Done::default();
    let (at, other, keyword) = (session.at, 1 - session.at, session.keyword());
    for _ in 0..BURST {
        let known = session.imap.view.clone();
        match random.below(10) {
            0..=2 => {
                let target = random.below(2);
                let command = format!("APPEND {} {{14+}}\r\nSubject: x\r\n\r\n", BOXES[target]);
                let answer = session.imap.ok(&command).await;
                done.added[target].insert(code(&answer, "APPENDUID").unwrap()[1].parse().unwrap());
            }
            3..=5 if !known.is_empty() => {
                let uid = random.pick(&known);
                let mode = random.pick(&["+", "-"]);
                session.imap.ok(&format!("UID STORE {uid} {mode}FLAGS ({keyword})")).await;
                done.keyword.insert(uid, mode == "+");
            }
            6 if !known.is_empty() => {
                let uid = random.pick(&known);
                session.imap.ok(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)")).await;
                done.flagged.insert(uid);
                session.imap.ok("EXPUNGE").await;
            }
            7 if !known.is_empty() => {
                let uid = random.pick(&known);
                let answer = session.imap.ok(&format!("UID MOVE {uid} {}", BOXES[other])).await;
                if let Some(copied) = code(&answer, "COPYUID") {
                    done.added[other].extend(numbers(copied[2]));
                    done.moved.push((other, numbers(copied[2])[0], uid));
                    done.removed[at].extend(numbers(copied[1]));
                }
            }
            // Of an empty mailbox even * is BAD (RFC 9051 §9, seq-number).
            8 if !known.is_empty() => drop(session.imap.ok("FETCH 1:* (UID FLAGS MODSEQ)").await),
            _ => drop(session.imap.ok("NOOP").await),
        }
        session.imap.learn().await;
    }
    done
}

/// What any EXPUNGE may have taken: messages that had \Deleted, wherever they were moved.
fn doomed(sessions: &[Session], boxes: &[Mailbox; 2], done: &[Done]) -> [BTreeSet<u32>; 2] {
    let mut doomed: [BTreeSet<u32>; 2] = Default::default();
    for (at, model) in boxes.iter().enumerate() {
        let had = model.messages.iter().filter(|(_, flags)| flags.contains("\\Deleted"));
        doomed[at].extend(had.map(|(uid, _)| *uid));
    }
    sessions.iter().zip(done).for_each(|(s, d)| doomed[s.at].extend(&d.flagged));
    // A message may have travelled several times.
    for _ in 0..BURST {
        for (at, to, from) in done.iter().flat_map(|d| d.moved.iter().copied()) {
            if doomed[1 - at].contains(&from) {
                doomed[at].insert(to);
            }
        }
    }
    doomed
}

/// After a burst: nothing lost, nothing invented, and everybody sees the same.
async fn settle(sessions: &mut [Session], boxes: &mut [Mailbox; 2], done: &[Done]) {
    for session in sessions.iter_mut() {
        session.imap.sync().await;
    }
    let doomed = doomed(sessions, boxes, done);
    for (at, model) in boxes.iter_mut().enumerate() {
        let before: BTreeSet<u32> = model.messages.keys().copied().collect();
        let ever: Vec<u32> = done.iter().flat_map(|d| d.added[at].iter().copied()).collect();
        let distinct: BTreeSet<u32> = ever.iter().copied().collect();
        assert_eq!(ever.len(), distinct.len(), "a UID was given twice");
        assert!(distinct.is_disjoint(&before), "a UID was given again");
        let eyes: Vec<&Session> = sessions.iter().filter(|s| s.at == at).collect();
        let Some(first) = eyes.first() else { continue };
        for session in &eyes {
            assert_eq!(session.imap.view, first.imap.view, "messages differ between sessions");
        }
        let told = eyes.iter().flat_map(|s| s.imap.gone.iter().copied());
        let removed: BTreeSet<u32> = told.chain(done.iter().flat_map(|d| d.removed[at].iter().copied())).collect();
        let now: BTreeSet<u32> = first.imap.view.iter().copied().collect();
        let ever: BTreeSet<u32> = before.union(&distinct).copied().collect();
        let invented: Vec<_> = now.difference(&ever).collect();
        assert!(invented.is_empty(), "{}: nobody put in {invented:?}", BOXES[at]);
        let undead: Vec<_> = now.intersection(&removed).collect();
        assert!(undead.is_empty(), "{}: {undead:?} were told to be gone", BOXES[at]);
        let here = || sessions.iter().zip(done).filter(|(s, _)| s.at == at);
        let missing = ever.difference(&now);
        let lost: Vec<_> = missing.filter(|u| !removed.contains(u) && !doomed[at].contains(u)).collect();
        assert!(lost.is_empty(), "{}: {lost:?} are lost", BOXES[at]);
        for (session, done) in here() {
            for (uid, is_set) in done.keyword.iter().filter(|(uid, _)| now.contains(uid)) {
                let flags = &first.imap.flags[uid];
                assert_eq!(
                    flags.contains(&session.keyword()),
                    *is_set,
                    "keyword of session {} on {uid}",
                    session.number
                );
            }
        }
        model.last_uid = model.last_uid.max(distinct.last().copied().unwrap_or(0));
        model.messages = first.imap.flags.clone();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_on_three_gateways_agree_with_a_model() {
    let commands = from_environment("IMAP_MODEL_COMMANDS").unwrap_or(2_400);
    let seed = from_environment("IMAP_MODEL_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1);
    eprintln!("IMAP_MODEL_SEED={seed} IMAP_MODEL_COMMANDS={commands}");
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com")
        .more(&["--replicas", "imap-gateway=3"]);
    options.config = Some("imap-gateway:\n  allow_cleartext_login: true\n".into());
    let site = Site::up(options);
    site.account("bob@example.com");
    let mut random = Random(seed);
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let mut imap = Imap::login(site.host(), site.port(143), "bob@example.com").await;
        if number == 0 {
            imap.ok("CREATE Other").await;
        }
        let at = number % 2;
        imap.select(BOXES[at]).await;
        sessions.push(Session { imap, at, number });
    }
    let mut boxes = [Mailbox::default(), Mailbox::default()];
    let mut run = 0;
    while run < commands {
        // A session that has not looked for a while is behind on purpose: only some are stepped.
        for _ in 0..BURST * SESSIONS / 4 {
            step(&mut random, &mut sessions, &mut boxes).await;
            run += 2;
        }
        for session in &mut sessions {
            session.imap.sync().await;
            agree(session, &boxes[session.at]);
            session.imap.gone.clear();
        }
        // Every mailbox needs an eye on it while all are busy at once.
        for at in 0..2 {
            if !sessions.iter().any(|s| s.at == at) {
                sessions[at].at = at;
                sessions[at].imap.select(BOXES[at]).await;
            }
        }
        let bursts = sessions.iter_mut().map(|s| {
            let random = Random(random.0.wrapping_mul(s.number as u64 * 2 + 3) | 1);
            burst(s, random)
        });
        let done = futures::future::join_all(bursts).await;
        run += (BURST * SESSIONS) as u64;
        settle(&mut sessions, &mut boxes, &done).await;
        // Mailboxes must not grow without end.
        for (at, model) in boxes.iter_mut().enumerate().filter(|(_, b)| b.messages.len() > 200) {
            let Some(session) = sessions.iter_mut().find(|s| s.at == at) else { continue };
            session.imap.ok("STORE 1:150 +FLAGS.SILENT (\\Deleted)").await;
            session.imap.ok("EXPUNGE").await;
            let gone: Vec<u32> = model.messages.keys().copied().take(150).collect();
            gone.iter().for_each(|uid| drop(model.messages.remove(uid)));
            model.messages.retain(|_, flags| !flags.contains("\\Deleted"));
        }
    }
    eprintln!("{run} commands, no divergence");
}
