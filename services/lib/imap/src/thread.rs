//! THREAD (RFC 5256 §3): ORDEREDSUBJECT and REFERENCES.
//!
//! Identifiers come from anybody: no step recurses, and a chain of references is followed for a
//! bounded number of steps, so that neither loops nor endless conversations cost more than their
//! messages do.

use std::collections::{HashMap, HashSet};

use message::{base_subject, field, references};

use crate::sort::sent_or_arrival;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    OrderedSubject,
    References,
}

/// What threading wants to know of a message.
#[derive(Debug, Clone)]
pub struct Threadable {
    pub uid: u32,
    /// What is written in the answer.
    pub number: u32,
    sent: i64,
    subject: String,
    is_reply: bool,
    id: Option<Vec<u8>>,
    elders: Vec<Vec<u8>>,
}

impl Threadable {
    pub fn new(algorithm: Algorithm, uid: u32, number: u32, header: &[u8], arrival_ms: i64) -> Self {
        let (subject, is_reply) = base_subject(field(header, "Subject").unwrap_or_default());
        let (id, elders) = match algorithm {
            Algorithm::References => references(header),
            Algorithm::OrderedSubject => (None, Vec::new()),
        };
        Self { uid, number, sent: sent_or_arrival(header, arrival_ms), subject, is_reply, id, elders }
    }
}

/// Writes ` (2)(3 6 (4 23)(44 7 96))`; the messages are in the mailbox's order.
pub fn thread(algorithm: Algorithm, messages: &[Threadable], out: &mut Vec<u8>) {
    match algorithm {
        Algorithm::OrderedSubject => ordered_subject(messages, out),
        Algorithm::References => Forest::new(messages).write(out),
    }
}

fn ordered_subject(messages: &[Threadable], out: &mut Vec<u8>) {
    let mut sorted: Vec<&Threadable> = messages.iter().collect();
    sorted.sort_by(|a, b| (&a.subject, a.sent, a.uid).cmp(&(&b.subject, b.sent, b.uid)));
    let mut threads: Vec<&[&Threadable]> = sorted.chunk_by(|a, b| a.subject == b.subject).collect();
    threads.sort_by_key(|t| t.first().map(|m| (m.sent, m.uid)));
    for thread in threads {
        let numbers: Vec<String> = thread.iter().map(|m| m.number.to_string()).collect();
        let text = match numbers.as_slice() {
            [first, rest @ ..] if rest.len() > 1 => format!("({first} ({}))", rest.join(")(")),
            all => format!("({})", all.join(" ")),
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// A message, or a dummy for one that others refer to.
#[derive(Debug, Default)]
struct Node<'m> {
    message: Option<&'m Threadable>,
    parent: Option<usize>,
    children: Vec<usize>,
}

/// Ancestors that are looked at before two messages are joined.
const MAX_DEPTH: usize = 1_000;

struct Forest<'m> {
    nodes: Vec<Node<'m>>,
    roots: Vec<usize>,
}

impl<'m> Forest<'m> {
    fn new(messages: &'m [Threadable]) -> Self {
        let mut forest = Self { nodes: Vec::with_capacity(messages.len()), roots: Vec::new() };
        forest.link(messages);
        forest.prune();
        forest.sort_roots();
        forest.join_subjects();
        forest.sort_all();
        forest
    }

    /// Step 1: parents and children by reference.
    fn link(&mut self, messages: &'m [Threadable]) {
        let mut by_id: HashMap<&[u8], usize> = HashMap::new();
        for message in messages {
            let free = message
                .id
                .as_deref()
                .filter(|id| by_id.get(id).is_none_or(|at| self.nodes.get(*at).is_some_and(|n| n.message.is_none())));
            // No identifier, or one that another message has: unique for itself.
            let own = match free {
                Some(id) => *by_id.entry(id).or_insert_with(|| add(&mut self.nodes)),
                None => add(&mut self.nodes),
            };
            self.nodes[own].message = Some(message);
            let mut previous: Option<usize> = None;
            for id in &message.elders {
                let elder = *by_id.entry(id).or_insert_with(|| add(&mut self.nodes));
                if let Some(previous) = previous
                    && self.nodes[elder].parent.is_none()
                {
                    self.adopt(previous, elder);
                }
                previous = Some(elder);
            }
            // The message's own last reference is what counts, whatever others said of it.
            self.leave(own);
            if let Some(parent) = previous {
                self.adopt(parent, own);
            }
        }
        self.roots = (0..self.nodes.len()).filter(|at| self.nodes[*at].parent.is_none()).collect();
    }

    /// Unless it would make a loop.
    fn adopt(&mut self, parent: usize, child: usize) {
        let mut ancestor = Some(parent);
        for _ in 0..MAX_DEPTH {
            match ancestor {
                None => {
                    self.nodes[child].parent = Some(parent);
                    self.nodes[parent].children.push(child);
                    return;
                }
                Some(at) if at == child => return,
                Some(at) => ancestor = self.nodes[at].parent,
            }
        }
    }

    fn leave(&mut self, child: usize) {
        if let Some(parent) = self.nodes[child].parent.take() {
            self.nodes[parent].children.retain(|c| *c != child);
        }
    }

    /// Step 3: dummies without children go; those with children give way to them, except at the
    /// root, where they keep several together.
    fn prune(&mut self) {
        for at in self.bottom_up() {
            let mut kept = Vec::new();
            for child in std::mem::take(&mut self.nodes[at].children) {
                if self.nodes[child].message.is_some() {
                    kept.push(child);
                } else {
                    kept.append(&mut std::mem::take(&mut self.nodes[child].children));
                }
            }
            kept.iter().for_each(|child| self.nodes[*child].parent = Some(at));
            self.nodes[at].children = kept;
        }
        let mut roots = Vec::new();
        for root in std::mem::take(&mut self.roots) {
            match (self.nodes[root].message, self.nodes[root].children.as_slice()) {
                (None, []) => {}
                (None, [only]) => roots.push(*only),
                _ => roots.push(root),
            }
        }
        roots.iter().for_each(|root| self.nodes[*root].parent = None);
        self.roots = roots;
    }

    /// Children before their parents.
    fn bottom_up(&self) -> Vec<usize> {
        let mut order = self.roots.clone();
        let mut next = 0;
        while let Some(at) = order.get(next).copied() {
            order.extend_from_slice(&self.nodes[at].children);
            next += 1;
        }
        order.reverse();
        order
    }

    /// Sent date; a dummy has that of its first child, which lies right below the root.
    fn key(&self, at: usize) -> (i64, u32) {
        match self.nodes[at].message {
            Some(message) => (message.sent, message.uid),
            None => {
                let below = self.nodes[at].children.iter().filter_map(|c| self.nodes[*c].message);
                below.map(|m| (m.sent, m.uid)).min().unwrap_or_default()
            }
        }
    }

    /// Step 4.
    fn sort_roots(&mut self) {
        let mut roots = std::mem::take(&mut self.roots);
        roots.sort_by_key(|at| self.key(*at));
        self.roots = roots;
    }

    /// The message that speaks for a thread: a dummy's first child.
    fn speaker(&self, root: usize) -> Option<&'m Threadable> {
        let node = &self.nodes[root];
        node.message.or_else(|| {
            let below = node.children.iter().filter_map(|c| self.nodes[*c].message);
            below.min_by_key(|m| (m.sent, m.uid))
        })
    }

    /// Step 5: threads with one subject become one.
    fn join_subjects(&mut self) {
        let mut table: HashMap<&'m str, usize> = HashMap::new();
        for root in &self.roots {
            let Some(speaker) = self.speaker(*root).filter(|m| !m.subject.is_empty()) else { continue };
            let is_dummy = self.nodes[*root].message.is_none();
            let better = |there: &usize| {
                let there_dummy = self.nodes[*there].message.is_none();
                let there_reply = self.speaker(*there).is_some_and(|m| m.is_reply);
                !there_dummy && is_dummy || !there_dummy && there_reply && !speaker.is_reply
            };
            if table.get(speaker.subject.as_str()).is_none_or(better) {
                table.insert(&speaker.subject, *root);
            }
        }
        let mut merged: Vec<usize> = Vec::new();
        // Where a root stands among the merged, and those that stand below a new dummy.
        let (mut place, mut below) = (HashMap::new(), HashSet::new());
        for root in std::mem::take(&mut self.roots) {
            let speaker = self.speaker(root).filter(|m| !m.subject.is_empty());
            let there = speaker.and_then(|m| table.get(m.subject.as_str()).copied());
            match (speaker, there) {
                (Some(speaker), Some(there)) if there != root => {
                    let is_reply = speaker.is_reply;
                    let there_reply = self.speaker(there).is_some_and(|m| m.is_reply);
                    let dummies = (self.nodes[there].message.is_none(), self.nodes[root].message.is_none());
                    match dummies {
                        (true, true) => {
                            let mut children = std::mem::take(&mut self.nodes[root].children);
                            self.nodes[there].children.append(&mut children);
                        }
                        (true, false) => self.nodes[there].children.push(root),
                        _ if is_reply && !there_reply => self.nodes[there].children.push(root),
                        _ => {
                            let dummy = add(&mut self.nodes);
                            self.nodes[dummy].children = vec![there, root];
                            match place.get(&there).copied() {
                                Some(at) => merged[at] = dummy,
                                None => merged.push(dummy),
                            }
                            below.insert(there);
                            table.insert(&speaker.subject, dummy);
                        }
                    }
                }
                _ if below.contains(&root) => {}
                _ => {
                    place.insert(root, merged.len());
                    merged.push(root);
                }
            }
        }
        self.roots = merged;
    }

    /// Step 6.
    fn sort_all(&mut self) {
        for at in self.bottom_up() {
            let mut children = std::mem::take(&mut self.nodes[at].children);
            children.sort_by_key(|c| self.key(*c));
            self.nodes[at].children = children;
        }
        self.sort_roots();
    }

    /// `(1 2 (3)(4 5))`: a chain is a list, a fork a list of lists (RFC 5256 §4).
    fn write(&self, out: &mut Vec<u8>) {
        enum Step {
            Open(usize),
            Close,
        }
        let mut todo: Vec<Step> = self.roots.iter().rev().map(|r| Step::Open(*r)).collect();
        while let Some(step) = todo.pop() {
            let Step::Open(mut at) = step else {
                out.push(b')');
                continue;
            };
            out.push(b'(');
            let mut is_first = true;
            loop {
                if let Some(message) = self.nodes[at].message {
                    if !is_first {
                        out.push(b' ');
                    }
                    out.extend_from_slice(message.number.to_string().as_bytes());
                    is_first = false;
                }
                match self.nodes[at].children.as_slice() {
                    [only] => at = *only,
                    children => {
                        if !children.is_empty() && !is_first {
                            out.push(b' ');
                        }
                        todo.push(Step::Close);
                        todo.extend(children.iter().rev().map(|c| Step::Open(*c)));
                        break;
                    }
                }
            }
        }
    }
}

fn add(nodes: &mut Vec<Node<'_>>) -> usize {
    nodes.push(Node::default());
    nodes.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages as `id subject < references`, in order and a second apart.
    fn threads(algorithm: Algorithm, list: &[(&str, &str, &str)]) -> String {
        let messages: Vec<_> = (1u32..)
            .zip(list)
            .map(|(n, (id, subject, refs))| {
                let refs: Vec<String> = refs.split_whitespace().map(|r| format!("<{r}@x>")).collect();
                let header =
                    format!("Message-ID: <{id}@x>\r\nSubject: {subject}\r\nReferences: {}\r\n\r\n", refs.join(" "));
                Threadable::new(algorithm, n, n, header.as_bytes(), i64::from(n) * 1000)
            })
            .collect();
        let mut out = Vec::new();
        thread(algorithm, &messages, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn by_subject() {
        let of = |list: &[(&str, &str, &str)]| threads(Algorithm::OrderedSubject, list);
        assert_eq!(
            of(&[("a", "x", ""), ("b", "y", ""), ("c", "Re: x", ""), ("d", "x", ""), ("e", "RE: y", "")]),
            "(1 (3)(4))(2 5)"
        );
        assert_eq!(of(&[]), "");
    }

    #[test]
    fn by_references() {
        let of = |list: &[(&str, &str, &str)]| threads(Algorithm::References, list);
        assert_eq!(
            of(&[("a", "x", ""), ("b", "Re: x", "a"), ("c", "Re: x", "a b"), ("d", "Re: x", "a")]),
            "(1 (2 3)(4))"
        );
        assert_eq!(of(&[("c", "s", "a b"), ("d", "t", "a")]), "((1)(2))", "a dummy root keeps two together");
        assert_eq!(of(&[("c", "s", "a b")]), "(1)");
        assert_eq!(of(&[("a", "x", "b"), ("b", "y", "a")]), "(2 1)", "a loop is not closed");
        assert_eq!(of(&[("a", "x", ""), ("a", "y", "")]), "(1)(2)", "an identifier twice");
        assert_eq!(of(&[("a", "x", ""), ("b", "Re: x", "")]), "(1 2)", "a reply by its subject");
        assert_eq!(of(&[("a", "x", ""), ("b", "x", "")]), "((1)(2))");
        assert_eq!(of(&[("a", "Re: x", ""), ("b", "x", "")]), "(2 1)");
        assert_eq!(of(&[("a", "", ""), ("b", "", "")]), "(1)(2)");
        assert_eq!(of(&[("a", "x", ""), ("b", "x", ""), ("c", "x", "")]), "((1)(2)(3))");
    }

    #[test]
    fn an_endless_conversation_costs_little() {
        let list: Vec<(String, String)> = (0..5_000).map(|n| (format!("m{}", n + 1), format!("m{n}"))).collect();
        let list: Vec<(&str, &str, &str)> = list.iter().map(|(id, r)| (id.as_str(), "", r.as_str())).collect();
        let text = threads(Algorithm::References, &list);
        assert_eq!(text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).count(), 5_000);
    }
}
