//! JSON read by the grammar of RFC 8259, letter by letter: no library's reader is asked.

/// A value; numbers as they are written, objects with every key that stands there.
#[derive(Debug)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// The value of a text; none where it is not JSON, or deeper than is said.
pub(crate) fn read(text: &str, deepest: usize) -> Option<Json> {
    let mut rest = Rest(text);
    let value = rest.value(deepest)?;
    rest.space();
    rest.0.is_empty().then_some(value)
}

/// What is not read yet.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn take(&mut self, word: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(word)?;
        Some(())
    }

    /// The same with white space around it.
    fn mark(&mut self, mark: &str) -> Option<()> {
        self.space();
        self.take(mark)?;
        self.space();
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        self.space();
        match self.0.chars().next()? {
            '{' => self.object(depth.checked_sub(1)?),
            '[' => self.list(depth.checked_sub(1)?),
            '"' => self.text().map(Json::Text),
            'n' => self.take("null").map(|()| Json::Null),
            't' => self.take("true").map(|()| Json::Bool(true)),
            'f' => self.take("false").map(|()| Json::Bool(false)),
            _ => self.number(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        self.mark("{")?;
        let mut members = Vec::new();
        if self.mark("}").is_some() {
            return Some(Json::Object(members));
        }
        loop {
            let key = self.text()?;
            self.mark(":")?;
            members.push((key, self.value(depth)?));
            if self.mark(",").is_none() {
                return self.take("}").map(|()| Json::Object(members));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Json> {
        self.mark("[")?;
        let mut values = Vec::new();
        if self.take("]").is_some() {
            return Some(Json::List(values));
        }
        loop {
            values.push(self.value(depth)?);
            if self.mark(",").is_none() {
                return self.take("]").map(|()| Json::List(values));
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        self.take("\"")?;
        let mut text = String::new();
        loop {
            let letter = self.0.chars().next()?;
            self.take(letter.encode_utf8(&mut [0; 4]))?;
            match letter {
                '"' => return Some(text),
                '\\' => text.push(self.escaped()?),
                '\0'..='\u{1f}' => return None,
                _ => text.push(letter),
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        let letter = self.0.chars().next()?;
        self.take(letter.encode_utf8(&mut [0; 4]))?;
        Some(match letter {
            '"' | '\\' | '/' => letter,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.unit()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first);
                }
                self.take("\\u")?;
                let low = self.unit()?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                return char::from_u32(0x10000 + ((first - 0xd800) << 10) + low);
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.0.get(..4)?;
        self.0 = &self.0[4..];
        let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        hexadecimal.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    }

    fn number(&mut self) -> Option<Json> {
        let text = self.0;
        let _ = self.take("-");
        if self.take("0").is_none() {
            self.digits()?;
        }
        if self.take(".").is_some() {
            self.digits()?;
        }
        if self.take("e").or_else(|| self.take("E")).is_some() {
            let _ = self.take("+").or_else(|| self.take("-"));
            self.digits()?;
        }
        Some(Json::Number(text[..text.len() - self.0.len()].to_owned()))
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.0.trim_start_matches(|digit: char| digit.is_ascii_digit());
        let some = rest.len() < self.0.len();
        self.0 = rest;
        some.then_some(())
    }
}
