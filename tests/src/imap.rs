//! An IMAP client that believes nothing: it keeps the view of its mailbox from what it is told,
//! and panics when the server contradicts itself.

use std::collections::{BTreeMap, BTreeSet};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

pub type Flags = BTreeSet<String>;

pub struct Imap {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    tags: u32,
    /// UID of each message by its number; 0 until it is known.
    pub view: Vec<u32>,
    pub flags: BTreeMap<u32, Flags>,
    /// Everything that this session was told is gone.
    pub gone: BTreeSet<u32>,
    modseq: BTreeMap<u32, u64>,
}

impl Imap {
    /// In plain text, which the site's configuration has to allow.
    pub async fn login(host: &str, port: u16, user: &str) -> Self {
        let stream = TcpStream::connect((host, port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        let mut imap = Self {
            reader: BufReader::new(reader),
            writer,
            tags: 0,
            view: Vec::new(),
            flags: BTreeMap::new(),
            gone: BTreeSet::new(),
            modseq: BTreeMap::new(),
        };
        let greeting = imap.line().await;
        assert!(greeting.starts_with("* OK"), "{greeting}");
        imap.ok(&format!("LOGIN {user} secret")).await;
        imap
    }

    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        let read = tokio::time::timeout(std::time::Duration::from_secs(60), read).await;
        assert!(read.expect("an answer within a minute").unwrap() > 0, "connection closed");
        line.trim_end().to_owned()
    }

    pub async fn send(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn select(&mut self, mailbox: &str) {
        (self.view, self.flags, self.gone, self.modseq) = Default::default();
        self.ok(&format!("SELECT {mailbox}")).await;
        self.learn().await;
    }

    /// The tagged answer, which must be OK.
    pub async fn ok(&mut self, command: &str) -> String {
        let answer = self.run(command).await;
        assert!(answer.starts_with("OK"), "{command}: {answer}");
        answer
    }

    /// The tagged answer without its tag, after all that was told before it. Also the code of an
    /// untagged COPYUID, as MOVE has it.
    pub async fn run(&mut self, command: &str) -> String {
        self.tags += 1;
        let tag = format!("t{}", self.tags);
        self.send(&format!("{tag} {command}\r\n")).await;
        let mut copied = String::new();
        loop {
            let line = self.line().await;
            if let Some(answer) = line.strip_prefix(&format!("{tag} ")) {
                return format!("{answer}{copied}");
            }
            if line.contains("[COPYUID") {
                copied = format!(" {line}");
            }
            self.untagged(&line, command);
        }
    }

    /// Takes in one untagged response.
    pub fn untagged(&mut self, line: &str, command: &str) {
        let mut words = line.split(' ').skip(1);
        let (Some(first), Some(second)) = (words.next(), words.next()) else { return };
        let Ok(number) = first.parse::<usize>() else { return };
        match second {
            "EXISTS" => {
                assert!(number >= self.view.len(), "EXISTS shrinks: {line} of {} in {command}", self.view.len());
                self.view.resize(number, 0);
            }
            "EXPUNGE" => {
                let forbidden = ["FETCH", "STORE", "SEARCH", "SORT"];
                assert!(!forbidden.iter().any(|c| command.starts_with(c)), "{line} in {command}");
                assert!(number >= 1 && number <= self.view.len(), "{line} of {} in {command}", self.view.len());
                let uid = self.view.remove(number - 1);
                self.flags.remove(&uid);
                if uid > 0 {
                    self.gone.insert(uid);
                }
            }
            "FETCH" => self.fetched(number, line, command),
            _ => {}
        }
    }

    fn fetched(&mut self, number: usize, line: &str, command: &str) {
        assert!(number >= 1 && number <= self.view.len(), "{line} of {} in {command}", self.view.len());
        if let Some(uid) = after(line, "UID ").and_then(|t| t.parse().ok()) {
            let known = &mut self.view[number - 1];
            assert!(*known == 0 || *known == uid, "message {number} was {known}: {line} in {command}");
            *known = uid;
        }
        let uid = self.view[number - 1];
        if let Some(modseq) = after(line, "MODSEQ (").and_then(|t| t.parse().ok()) {
            let before = self.modseq.insert(uid, modseq).unwrap_or(0);
            assert!(modseq >= before, "mod-sequence went back from {before}: {line} in {command}");
        }
        if let (Some(list), true) = (line.split_once("FLAGS (").and_then(|(_, t)| t.split_once(')')), uid > 0) {
            let flags = list.0.split_whitespace().filter(|f| *f != "\\Recent").map(str::to_owned).collect();
            self.flags.insert(uid, flags);
        }
    }

    /// Asks for what EXISTS has announced.
    pub async fn learn(&mut self) {
        for _ in 0..20 {
            let Some(first) = self.view.iter().position(|uid| *uid == 0) else { break };
            self.ok(&format!("FETCH {}:* (UID FLAGS)", first + 1)).await;
            if self.view.contains(&0) {
                // Gone between EXISTS and FETCH: EXPUNGE is still to come.
                self.ok("NOOP").await;
            }
        }
        assert!(!self.view.contains(&0), "not all messages are known: {:?}", self.view);
        assert!(self.view.is_sorted_by(|a, b| a < b), "UIDs do not rise: {:?}", self.view);
    }

    /// Up to date.
    pub async fn sync(&mut self) {
        self.ok("NOOP").await;
        self.learn().await;
    }
}

fn after<'l>(line: &'l str, word: &str) -> Option<&'l str> {
    let rest = line.split_once(word)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()
}

/// `1:3,5` as numbers.
pub fn numbers(set: &str) -> Vec<u32> {
    let ranges = set.split(',').filter(|r| !r.is_empty()).map(|range| {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        first.parse::<u32>().unwrap()..=last.parse().unwrap()
    });
    ranges.flatten().collect()
}

/// The arguments of a response code: `[COPYUID 1 2:3 4:5]` gives `1`, `2:3` and `4:5`.
pub fn code<'a>(answer: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let rest = answer.split_once(&format!("[{name} "))?.1;
    Some(rest.split_once(']')?.0.split(' ').collect())
}
