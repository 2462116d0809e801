//! From words to instructions.

use std::ops::Range;

use super::answers::{list, nearest, unknown};
use super::words::{self, Flaw, Part, Spanned, Word};
use super::{AddFlags, Instruction, Pair, Transfer};

type Words = std::vec::IntoIter<Spanned<Word>>;

/// Reads all instructions of a text.
pub fn parse(text: &str) -> Result<Vec<Spanned<Instruction>>, Flaw> {
    // Editors on Windows begin files with a byte order mark.
    let text = text
        .strip_prefix('\u{feff}')
        .map_or_else(|| text.into(), |rest| format!("   {rest}"));
    let mut instructions = Vec::new();
    for line in words::lines(&text) {
        let words = words::words(&line)?;
        instructions.push(Spanned::new(instruction(words, line.span())?, line.span()));
    }
    order(&instructions)?;
    Ok(instructions)
}

fn instruction(words: Vec<Spanned<Word>>, span: Range<usize>) -> Result<Instruction, Flaw> {
    let mut words = words.into_iter();
    let Some(keyword) = words.next() else {
        return Err(Flaw::new("this line is empty", span, "take it out"));
    };
    let name = keyword.value.text().unwrap_or_default().to_uppercase();
    let rest = Rest {
        keyword: keyword.span.clone(),
        name: name.clone(),
        words,
    };
    match name.as_str() {
        "FROM" => from(rest),
        "ARG" => rest.arg(),
        "ENV" => Ok(Instruction::Env {
            pairs: rest.pairs(variable_name)?,
        }),
        "LABEL" => Ok(Instruction::Label {
            pairs: rest.pairs(label_name)?,
        }),
        "LAYER" => Ok(Instruction::Layer {
            kind: rest.one("a kind, such as `kubernetes` or `app`")?,
        }),
        "COPY" => rest.transfer(None),
        "ADD" => rest.transfer(Some(AddFlags::default())),
        "IMAGE" => Ok(Instruction::Image {
            references: rest.some("a reference of a container image")?,
        }),
        "IMAGES" => Ok(Instruction::Images {
            files: rest.some("a file of the context that lists references")?,
        }),
        "INCLUDE" => Ok(Instruction::Include {
            images: rest.some("a reference of a cluster image")?,
        }),
        _ => Err(unknown(&name, keyword.span)),
    }
}

/// What follows an instruction's name.
struct Rest {
    keyword: Range<usize>,
    name: String,
    words: Words,
}

impl Rest {
    /// At least one word, none of them a flag.
    fn some(self, what: &str) -> Result<Vec<Spanned<Word>>, Flaw> {
        let words = self
            .words
            .map(|word| match word.value.head().starts_with("--") {
                true => Err(Flaw::new(
                    format!("`{}` takes no flags", self.name),
                    word.span,
                    "take it out",
                )),
                false => plain(word),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if words.is_empty() {
            return Err(Flaw::new(
                format!("`{}` needs {what}", self.name),
                self.keyword,
                "write it behind the instruction, on the same line",
            ));
        }
        Ok(words)
    }

    /// Exactly one word.
    fn one(self, what: &str) -> Result<Spanned<Word>, Flaw> {
        let name = self.name.clone();
        let mut words = self.some(what)?.into_iter();
        let (first, second) = (words.next(), words.next());
        match (first, second) {
            (_, Some(extra)) => Err(Flaw::new(
                format!("`{name}` takes one argument"),
                extra.span,
                format!("take this out, or write another `{name}`"),
            )),
            (Some(word), None) => Ok(word),
            (None, None) => Err(Flaw::new(
                format!("`{name}` needs {what}"),
                0..0,
                "write it",
            )),
        }
    }

    fn arg(self) -> Result<Instruction, Flaw> {
        let declarations = self
            .some("a name: `ARG NAME=DEFAULT`")?
            .into_iter()
            .map(|word| {
                let span = word.span.clone();
                match split(&word) {
                    Some((name, value)) => Ok((variable_name(name)?, Some(value))),
                    None => {
                        let name = word.value.text().unwrap_or_default();
                        Ok((variable_name(Spanned::new(name, span))?, None))
                    }
                }
            })
            .collect::<Result<_, Flaw>>()?;
        Ok(Instruction::Arg { declarations })
    }

    fn pairs(
        self,
        check: fn(Spanned<String>) -> Result<Spanned<String>, Flaw>,
    ) -> Result<Vec<Pair>, Flaw> {
        let name = self.name.clone();
        self.some(&format!("a name and a value: `{name} NAME=VALUE`"))?
            .into_iter()
            .map(|word| match split(&word) {
                Some((name, value)) => Ok((check(name)?, value)),
                None => Err(Flaw::new(
                    format!("`{name}` needs a name, `=` and a value"),
                    word.span,
                    format!("write `{name} NAME=VALUE`, in quotes when the value has blanks"),
                )),
            })
            .collect()
    }

    fn transfer(mut self, mut add: Option<AddFlags>) -> Result<Instruction, Flaw> {
        let (mut chmod, mut chown) = (None, None);
        let mut rest = Vec::new();
        for word in self.words.by_ref() {
            if !rest.is_empty() || !word.value.head().starts_with("--") {
                rest.push(plain(word)?);
                continue;
            }
            let (flag, value) = flag(&self.name, word)?;
            let slot = match (flag.value.as_str(), add.as_mut()) {
                ("chmod", _) => &mut chmod,
                ("chown", _) => &mut chown,
                ("checksum", Some(add)) => &mut add.checksum,
                ("strip", Some(add)) => &mut add.strip,
                ("unpack", Some(add)) if value.is_none() => {
                    add.unpack = true;
                    continue;
                }
                _ => return Err(unknown_flag(&self.name, add.is_some(), &flag)),
            };
            let Some(value) = value else {
                return Err(Flaw::new(
                    format!("`--{}` needs a value", flag.value),
                    flag.span,
                    format!("write `--{}=VALUE`", flag.value),
                ));
            };
            if slot.replace(value).is_some() {
                return Err(Flaw::new(
                    format!("`--{}` stands here twice", flag.value),
                    flag.span,
                    "take one of them out",
                ));
            }
        }
        let destination = rest.pop().filter(|_| !rest.is_empty()).ok_or_else(|| {
            Flaw::new(
                format!("`{}` needs a source and a destination", self.name),
                self.keyword.clone(),
                format!("write `{} SOURCE DESTINATION`", self.name),
            )
        })?;
        Ok(Instruction::Transfer(Transfer {
            chmod,
            chown,
            add,
            sources: rest,
            destination,
        }))
    }
}

fn from(rest: Rest) -> Result<Instruction, Flaw> {
    let mut words = rest.words.clone().skip(1);
    if let Some(word) = words
        .next()
        .filter(|word| word.value.head().eq_ignore_ascii_case("as"))
    {
        return Err(Flaw::new(
            "a Kubefile has one stage, which needs no name",
            word.span,
            "take `AS …` out; bring several images together with `INCLUDE`",
        ));
    }
    Ok(Instruction::From {
        image: rest.one("`scratch` or a reference of a cluster image")?,
    })
}

/// Splits `--name=value` and `--name`.
fn flag(
    instruction: &str,
    word: Spanned<Word>,
) -> Result<(Spanned<String>, Option<Spanned<Word>>), Flaw> {
    let head = word.value.head();
    let (name, with_value) = match head.split_once('=') {
        Some((name, _)) => (name.to_owned(), true),
        None if word.value.parts.len() == 1 => (head.to_owned(), false),
        None => {
            return Err(Flaw::new(
                format!("a flag of `{instruction}` is `--NAME=VALUE`"),
                word.span,
                "write the name without quotes and variables",
            ));
        }
    };
    let span = word.span.clone();
    let value = with_value.then(|| word.map(|word| word.without_head(name.len() + 1)));
    let name = name.trim_start_matches("--").to_owned();
    Ok((Spanned::new(name, span), value))
}

fn unknown_flag(instruction: &str, add: bool, flag: &Spanned<String>) -> Flaw {
    const COPY: [&str; 2] = ["chmod", "chown"];
    const ADD: [&str; 5] = ["chmod", "chown", "checksum", "unpack", "strip"];
    let known: &[&str] = if add { &ADD } else { &COPY };
    let name = flag.value.as_str();
    let hint = if !add && ADD.contains(&name) {
        format!("`--{name}` belongs to `ADD`")
    } else if name == "unpack" {
        "`--unpack` takes no value".to_owned()
    } else if name == "from" {
        "take files of another cluster image over with `INCLUDE IMAGE`".to_owned()
    } else if let Some(near) = nearest(name, known.iter().copied()) {
        format!("did you mean `--{near}`?")
    } else {
        let known: Vec<String> = known.iter().map(|name| format!("--{name}")).collect();
        format!("the flags are {}", list(known.iter().map(String::as_str)))
    };
    Flaw::new(
        format!("`{instruction}` has no flag `--{name}`"),
        flag.span.clone(),
        hint,
    )
}

/// Refuses what other dialects allow and what would be taken for something else
/// here.
fn plain(word: Spanned<Word>) -> Result<Spanned<Word>, Flaw> {
    let head = word.value.head();
    let (message, hint) = if head.starts_with('#') {
        (
            "a comment needs a line of its own",
            "move it to the line above, or quote the `#`",
        )
    } else if head.starts_with("<<") {
        (
            "chasi has no here-documents",
            "put the content into a file of the context and `COPY` it",
        )
    } else if head == "[" || head == "[]" || head.starts_with("[,") {
        (
            "chasi has no JSON form of an instruction",
            "quote each argument that has blanks",
        )
    } else {
        return Ok(word);
    };
    Err(Flaw::new(message, word.span, hint))
}

/// Splits `name=value` at the first `=` outside quotes.
fn split(word: &Spanned<Word>) -> Option<(Spanned<String>, Spanned<Word>)> {
    let mut name = String::new();
    for (index, part) in word.value.parts.iter().enumerate() {
        let Part::Literal { text, quoted } = part else {
            return None;
        };
        let Some((before, after)) = text.split_once('=').filter(|_| !quoted) else {
            name.push_str(text);
            continue;
        };
        name.push_str(before);
        let mut parts = word.value.parts[index + 1..].to_vec();
        if !after.is_empty() {
            parts.insert(
                0,
                Part::Literal {
                    text: after.to_owned(),
                    quoted: false,
                },
            );
        }
        return Some((
            Spanned::new(name, word.span.clone()),
            Spanned::new(Word { parts }, word.span.clone()),
        ));
    }
    None
}

/// Checks the name of an argument or of an environment variable.
fn variable_name(name: Spanned<String>) -> Result<Spanned<String>, Flaw> {
    let mut characters = name.value.chars();
    let first = characters
        .next()
        .is_some_and(|first| first == '_' || first.is_ascii_alphabetic());
    if first && characters.all(|other| other == '_' || other.is_ascii_alphanumeric()) {
        return Ok(name);
    }
    Err(Flaw::new(
        match name.value.as_str() {
            "" => "the variable has no name".to_owned(),
            name => format!("`{name}` is not a name of a variable"),
        },
        name.span,
        "a name has letters, digits and `_`, and does not begin with a digit",
    ))
}

/// Checks the name of a label.
fn label_name(name: Spanned<String>) -> Result<Spanned<String>, Flaw> {
    let fits = |character: char| character.is_ascii_alphanumeric() || "._-/".contains(character);
    if !name.value.is_empty() && name.value.chars().all(fits) {
        return Ok(name);
    }
    Err(Flaw::new(
        match name.value.as_str() {
            "" => "the label has no name".to_owned(),
            name => format!("`{name}` is not a name of a label"),
        },
        name.span,
        "a name has letters, digits, `.`, `_`, `-` and `/`, such as `org.opencontainers.image.title`",
    ))
}

/// Checks that `FROM` comes first and once, and that files have a layer.
fn order(instructions: &[Spanned<Instruction>]) -> Result<(), Flaw> {
    let (mut from, mut layer) = (false, false);
    for instruction in instructions {
        let place = || instruction.span.clone();
        match &instruction.value {
            Instruction::From { .. } if from => {
                return Err(Flaw::new(
                    "a second `FROM`",
                    place(),
                    "a Kubefile has one; bring further cluster images in with `INCLUDE`",
                ));
            }
            Instruction::From { .. } => from = true,
            Instruction::Arg { .. } => {}
            _ if !from => {
                return Err(Flaw::new(
                    "the first instruction must be `FROM`",
                    place(),
                    "begin with `FROM scratch`, or with `FROM` and a cluster image",
                ));
            }
            Instruction::Layer { .. } => layer = true,
            // What was included has layers of its own; what follows must say where it belongs.
            Instruction::Include { .. } => layer = false,
            Instruction::Transfer(_) if !layer => {
                return Err(Flaw::new(
                    "no layer is open here",
                    place(),
                    "write `LAYER` and what it is for above this line, such as `LAYER app`",
                ));
            }
            _ => {}
        }
    }
    if !from {
        return Err(Flaw::new(
            "there is no `FROM`",
            0..0,
            "begin with `FROM scratch`, or with `FROM` and a cluster image",
        ));
    }
    Ok(())
}
