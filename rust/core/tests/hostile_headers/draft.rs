//! A header as the list of what it says, each part as the bytes that will be written: right at first, to be made wrong.

use crate::naive::DTYPES;
use crate::random::Random;

/// Bytes as they will stand in the file.
pub(crate) type Raw = Vec<u8>;

/// A file to be.
pub(crate) struct Draft {
    pub(crate) items: Vec<Item>,
    /// What stands before the first brace, and after the last.
    pub(crate) before: Raw,
    pub(crate) after: Raw,
    /// The length that the first eight bytes announce, where it is not that of the header.
    pub(crate) announced: Option<u64>,
    /// Bytes of tensors.
    pub(crate) data: u64,
    /// How many bytes of the header there are, where not all.
    pub(crate) cut: Option<usize>,
}

/// A name, in quotes, and what stands at it.
pub(crate) struct Item {
    pub(crate) name: Raw,
    pub(crate) value: Thing,
}

/// What stands at a name.
pub(crate) enum Thing {
    Tensor(Vec<(Raw, Field)>),
    Other(Raw),
}

/// What stands at a key of a tensor.
#[derive(Clone)]
pub(crate) enum Field {
    One(Raw),
    List(Vec<Raw>),
}

impl Draft {
    /// A header with nothing wrong.
    pub(crate) fn right(random: &mut Random) -> Self {
        let count = if random.once_in(40) { random.below(200) } else { random.below(6) };
        let mut items: Vec<Item> = Vec::new();
        let mut data = 0;
        for number in 0..count {
            let (value, bytes) = tensor(random, data);
            data += bytes;
            let at = random.below(items.len() + 1);
            items.insert(at, Item { name: name(random, number), value: Thing::Tensor(value) });
        }
        if random.once_in(3) {
            let at = random.below(items.len() + 1);
            let name = spelled(random, "__metadata__");
            items.insert(at, Item { name, value: Thing::Other(metadata(random)) });
        }
        let after = if random.once_in(3) { vec![b' '; random.below(9)] } else { Raw::new() };
        Self { items, before: Raw::new(), after, announced: None, data, cut: None }
    }

    /// The header with its length before it, and the length of the file.
    pub(crate) fn written(&self, random: &mut Random) -> (Raw, u64) {
        let mut json = Writer { out: self.before.clone(), random };
        json.list(b"{}", self.items.iter(), |json, item| {
            json.word(&item.name);
            json.word(b":");
            json.thing(&item.value);
        });
        let mut json = json.out;
        json.extend_from_slice(&self.after);
        let length = 8 + json.len() as u64;
        let announced = self.announced.unwrap_or(json.len() as u64);
        json.truncate(self.cut.unwrap_or(usize::MAX));
        let bytes = [&announced.to_le_bytes()[..], &json].concat();
        (bytes, length.saturating_add(self.data))
    }

    /// One of the tensors' fields, where there is one.
    pub(crate) fn tensor(&mut self, random: &mut Random) -> Option<&mut Vec<(Raw, Field)>> {
        let mut tensors: Vec<_> = self.items.iter_mut().filter_map(Item::tensor).collect();
        let at = random.below(tensors.len());
        if tensors.is_empty() { None } else { Some(tensors.swap_remove(at)) }
    }

    /// The list at a key of one of the tensors.
    pub(crate) fn list(&mut self, random: &mut Random, key: &str) -> Option<&mut Vec<Raw>> {
        let fields = self.tensor(random)?;
        fields.iter_mut().find_map(|(name, field)| match field {
            Field::List(list) if *name == quoted(key) => Some(list),
            _ => None,
        })
    }
}

impl Item {
    pub(crate) fn tensor(&mut self) -> Option<&mut Vec<(Raw, Field)>> {
        match &mut self.value {
            Thing::Tensor(fields) => Some(fields),
            Thing::Other(_) => None,
        }
    }
}

/// Fields in any order, and how many bytes they speak of.
fn tensor(random: &mut Random, start: u64) -> (Vec<(Raw, Field)>, u64) {
    let (dtype, bits) = DTYPES[random.below(DTYPES.len())];
    let mut shape: Vec<u64> = (0..random.below(4)).map(|_| random.below(5) as u64).collect();
    let elements: u64 = shape.iter().product();
    if !(elements * bits).is_multiple_of(8) {
        shape.push(4);
    }
    if random.once_in(12) {
        shape.push(1 << random.below(50));
    }
    let bytes = shape.iter().product::<u64>() * bits / 8;
    let numbers = |numbers: &[u64]| {
        Field::List(numbers.iter().map(|number| number.to_string().into_bytes()).collect())
    };
    let mut fields = vec![
        (spelled(random, "dtype"), Field::One(spelled(random, dtype))),
        (spelled(random, "shape"), numbers(&shape)),
        (spelled(random, "data_offsets"), numbers(&[start, start + bytes])),
    ];
    let last = random.below(3);
    fields.swap(random.below(3), last);
    (fields, bytes)
}

fn name(random: &mut Random, number: usize) -> Raw {
    let stem = random.of(&["", "a", "model.layers.", "é", "\u{1f600}", "\"", "\\u0061", "\n", "/"]);
    // The number makes it another name than all before; the empty one is the first alone.
    let name = if number == 0 { stem.to_owned() } else { format!("{stem}{number}") };
    spelled(random, &name)
}

fn metadata(random: &mut Random) -> Raw {
    let pair = |random: &mut Random, key: usize| {
        let [key, value] = [key.to_string(), "pt".repeat(random.below(4))];
        [spelled(random, &key), spelled(random, &value)].join(&b':')
    };
    if random.once_in(4) {
        return b"null".to_vec();
    }
    let pairs: Vec<Raw> = (0..random.below(3)).map(|key| pair(random, key)).collect();
    [b"{", &pairs.join(&b',')[..], b"}"].concat()
}

/// A text in quotes, mostly as it is.
pub(crate) fn quoted(text: &str) -> Raw {
    serde_json::to_vec(text).unwrap()
}

/// A text in quotes, now and then in another of its spellings.
pub(crate) fn spelled(random: &mut Random, text: &str) -> Raw {
    if !random.once_in(16) {
        return quoted(text);
    }
    let mut raw = String::from("\"");
    for letter in text.chars() {
        if random.once_in(2) {
            let units = letter.encode_utf16(&mut [0; 2]).to_vec();
            raw.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            let quoted = String::from_utf8(quoted(&letter.to_string())).unwrap();
            raw.push_str(&quoted[1..quoted.len() - 1]);
        }
    }
    (raw + "\"").into_bytes()
}

/// Writes words, now and then with white space after them.
struct Writer<'a> {
    out: Raw,
    random: &'a mut Random,
}

impl Writer<'_> {
    fn word(&mut self, word: &[u8]) {
        self.out.extend_from_slice(word);
        if self.random.once_in(60) {
            self.out.extend_from_slice(self.random.of(&[" ", "\n", "\t", "\r\n"]).as_bytes());
        }
    }

    fn list<T>(
        &mut self,
        braces: &[u8; 2],
        items: impl Iterator<Item = T>,
        write: impl Fn(&mut Self, T),
    ) {
        self.word(&braces[..1]);
        for (number, item) in items.enumerate() {
            if number > 0 {
                self.word(b",");
            }
            write(self, item);
        }
        self.out.extend_from_slice(&braces[1..]);
    }

    fn thing(&mut self, thing: &Thing) {
        match thing {
            Thing::Other(raw) => self.word(raw),
            Thing::Tensor(fields) => self.list(b"{}", fields.iter(), |json, (key, field)| {
                json.word(key);
                json.word(b":");
                match field {
                    Field::One(raw) => json.word(raw),
                    Field::List(list) => json.list(b"[]", list.iter(), |json, raw| json.word(raw)),
                }
            }),
        }
    }
}
