/// Words and whole dialogues of the protocols, the odd ones too.
const WORDS: &[&[u8]] = &[
    b"EHLO client.example\r\n",
    b"HELO x\r\n",
    b"MAIL FROM:<a@b.example>\r\n",
    b"MAIL FROM:<>",
    b" BODY=BINARYMIME",
    b" BODY=8BITMIME",
    b" SIZE=100",
    b" SMTPUTF8",
    b" REQUIRETLS",
    b" HOLDFOR=60",
    b" HOLDUNTIL=2026-11-01T10:00:00Z",
    b" MT-PRIORITY=-3",
    b" RET=FULL ENVID=x+2B",
    b"RCPT TO:<c@d.example>\r\n",
    b"RCPT TO:<\"a> b\"@d.example>",
    b" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c@d.example",
    b"DATA\r\n",
    b"BDAT 5\r\nabcde",
    b"BDAT 7 LAST\r\nabc\r\n.\r",
    b"BDAT 0 LAST\r\n",
    b"BDAT 99999999999\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY x\r\n",
    b"EXPN x\r\n",
    b"HELP\r\n",
    b"QUIT\r\n",
    b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n",
    b"AUTH LOGIN\r\n",
    b"AUTH SCRAM-SHA-256 biwsbj11LHI9bg==\r\n",
    b"*\r\n",
    b"=\r\n",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r.\r",
    b"\n.\r\n",
    b"\r\n.\n",
    b"..",
    b".",
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b"<",
    b">",
    b"\"",
    b"\\",
    b"@",
    b":",
    b"=",
    b"\xff",
    b"\xc3\xa4",
    b"\xe2\x82",
    b"0",
    b"18446744073709551616",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c",
    b"n,,n=user,r=nonce",
    b"y,a=x,n=u,r=n",
    b"p=tls-exporter,,n=u,r=n",
    b"c=biws,r=nonce,p=AAAA",
    b"n,a=u,\x01auth=Bearer t\x01\x01",
    b"user=u\x01auth=Bearer t\x01\x01",
    b"\0alice\0secret",
    b"From: a@b.example\r\n",
    b"Subject: =?utf-8?q?J=C3=B6rg?=\r\n",
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: message/rfc822\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"--b\r\n",
    b"--b--\r\n",
    b"(((((",
    b")",
    b"Received: x\r\n",
    b"Date: Sun, 1 Nov 2026 10:00:00 +0000\r\n",
    b"To: a:b,\"c\" <d@e>;,\r\n",
    b"=?utf-8?b?w6Q?=",
    b"a1 LOGIN user pass\r\n",
    b"a2 SELECT INBOX\r\n",
    b"a3 FETCH 1:* (FLAGS BODY.PEEK[1.MIME]<0.10>)\r\n",
    b"{5}\r\nhello",
    b"{99999999999}\r\n",
    b"{5+}\r\nhello",
    b"~{3}\r\n\0\0\0",
    b"a4 SEARCH OR NOT (SEEN) UID 1:5,7 CHARSET UTF-8 TEXT x\r\n",
    b"a5 STORE 1 +FLAGS.SILENT (\\Seen $x)\r\n",
    b"a6 APPEND x {3}\r\nabc\r\n",
    b"NIL",
    b"1:*",
    b"USER bob\r\n",
    b"PASS x\r\n",
    b"TOP 1 0\r\n",
    b"RETR 99999999999\r\n",
    b"UIDL\r\n",
    b"STLS\r\n",
    b"CAPA\r\n",
    b"PUTSCRIPT \"a\" {5+}\r\nkeep;\r\n",
    b"LISTSCRIPTS\r\n",
    b"GETSCRIPT \"a\"\r\n",
    b"LOGOUT\r\n",
    b"text:\r\n",
    b"if header :matches \"x\" \"*\" { keep; }",
];

/// xorshift64*: the same seed, the same inputs.
pub struct Generator(u64);

impl Generator {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds shall not give neighbouring inputs.
        let mut generator = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        generator.below(2);
        generator
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap_or_default() % bound.max(1)
    }

    /// Words one after another, then some octets changed.
    pub fn input(&mut self) -> Vec<u8> {
        let mut input = Vec::new();
        for _ in 0..self.below(40) {
            match self.below(10) {
                0 => input.push(u8::try_from(self.below(256)).unwrap_or_default()),
                1 => {
                    let repeated = WORDS[self.below(WORDS.len())];
                    (0..self.below(60)).for_each(|_| input.extend_from_slice(repeated));
                }
                _ => input.extend_from_slice(WORDS[self.below(WORDS.len())]),
            }
        }
        for _ in 0..self.below(4) {
            if input.is_empty() {
                break;
            }
            let at = self.below(input.len());
            match self.below(4) {
                0 => drop(input.remove(at)),
                1 => input.insert(at, b"\r\n.\0 <>\""[self.below(8)]),
                2 => input[at] = u8::try_from(self.below(256)).unwrap_or_default(),
                _ => input.truncate(at),
            }
        }
        input
    }

    /// Some octets of an alphabet.
    pub fn octets_of(&mut self, alphabet: &[u8], most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }

    /// The same octets in pieces.
    pub fn pieces<'a>(&mut self, mut input: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !input.is_empty() {
            let (piece, rest) = input.split_at(1 + self.below(input.len().min(40)));
            pieces.push(piece);
            input = rest;
        }
        pieces
    }
}
