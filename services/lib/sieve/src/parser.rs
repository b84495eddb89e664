//! The grammar (RFC 5228 §8.2): commands, tests and arguments, whatever they mean.

use crate::{
    error::ScriptError,
    lexer::{Lexer, Token},
};

/// Blocks within blocks and tests within tests (§2.10.5 asks for 15).
const MAX_NESTING: usize = 32;

/// A command or a test.
#[derive(Debug)]
pub(crate) struct Node {
    pub name: String,
    pub at: usize,
    pub arguments: Vec<Argument>,
    pub tests: Vec<Node>,
    /// Of a command that ends with one.
    pub block: Option<Vec<Node>>,
}

#[derive(Debug)]
pub(crate) struct Argument {
    pub at: usize,
    pub value: Value,
}

#[derive(Debug)]
pub(crate) enum Value {
    Tag(String),
    Number(u64),
    Text(String),
    Texts(Vec<(String, usize)>),
}

impl Value {
    pub fn show(&self) -> String {
        match self {
            Self::Tag(tag) => format!("\":{tag}\""),
            Self::Number(number) => number.to_string(),
            Self::Text(_) => "a string".into(),
            Self::Texts(_) => "a list of strings".into(),
        }
    }
}

pub(crate) fn parse(source: &str) -> Result<Vec<Node>, ScriptError> {
    let mut lexer = Lexer::new(source);
    let (token, at) = lexer.next()?;
    let mut parser = Parser { source, lexer, token, at };
    let commands = parser.commands(0)?;
    match parser.token {
        Token::End => Ok(commands),
        _ => Err(parser.expected("a command")),
    }
}

struct Parser<'s> {
    source: &'s str,
    lexer: Lexer<'s>,
    /// The next one, and where it begins.
    token: Token,
    at: usize,
}

impl Parser<'_> {
    fn expected(&self, what: &str) -> ScriptError {
        ScriptError::at(self.source, self.at, format!("expected {what}, found {}", self.token.show()))
    }

    fn advance(&mut self) -> Result<Token, ScriptError> {
        let (token, at) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn eat(&mut self, mark: char) -> Result<bool, ScriptError> {
        let found = self.token == Token::Mark(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn check_depth(&self, depth: usize) -> Result<(), ScriptError> {
        if depth <= MAX_NESTING {
            return Ok(());
        }
        Err(ScriptError::at(self.source, self.at, format!("expected at most {MAX_NESTING} levels of nesting")))
    }

    fn commands(&mut self, depth: usize) -> Result<Vec<Node>, ScriptError> {
        self.check_depth(depth)?;
        let mut commands = Vec::new();
        while matches!(self.token, Token::Word(_)) {
            let mut command = self.node(depth)?;
            if self.eat('{')? {
                command.block = Some(self.commands(depth + 1)?);
                if !self.eat('}')? {
                    return Err(self.expected("a command or \"}\""));
                }
            } else if !self.eat(';')? {
                return Err(self.expected("\";\" or a block"));
            }
            commands.push(command);
        }
        Ok(commands)
    }

    /// A name with its arguments and tests.
    fn node(&mut self, depth: usize) -> Result<Node, ScriptError> {
        self.check_depth(depth)?;
        let at = self.at;
        if !matches!(self.token, Token::Word(_)) {
            return Err(self.expected("a test"));
        }
        let Token::Word(name) = self.advance()? else { return Err(self.expected("a test")) };
        let mut node = Node { name, at, arguments: self.arguments()?, tests: Vec::new(), block: None };
        if self.eat('(')? {
            loop {
                node.tests.push(self.node(depth + 1)?);
                if !self.eat(',')? {
                    break;
                }
            }
            if !self.eat(')')? {
                return Err(self.expected("\",\" or \")\""));
            }
        } else if matches!(self.token, Token::Word(_)) {
            node.tests.push(self.node(depth + 1)?);
        }
        Ok(node)
    }

    fn arguments(&mut self) -> Result<Vec<Argument>, ScriptError> {
        let mut arguments = Vec::new();
        loop {
            let at = self.at;
            let value = match &self.token {
                Token::Tag(tag) => Value::Tag(tag.clone()),
                Token::Number(number) => Value::Number(*number),
                Token::Text(text) => Value::Text(text.clone()),
                Token::Mark('[') => {
                    let value = self.list()?;
                    arguments.push(Argument { at, value });
                    continue;
                }
                _ => return Ok(arguments),
            };
            self.advance()?;
            arguments.push(Argument { at, value });
        }
    }

    fn list(&mut self) -> Result<Value, ScriptError> {
        self.advance()?;
        let mut texts = Vec::new();
        loop {
            let at = self.at;
            if !matches!(self.token, Token::Text(_)) {
                return Err(self.expected("a string"));
            }
            if let Token::Text(text) = self.advance()? {
                texts.push((text, at));
            }
            if self.eat(']')? {
                return Ok(Value::Texts(texts));
            }
            if !self.eat(',')? {
                return Err(self.expected("\",\" or \"]\""));
            }
        }
    }
}
