//! The tables: one line for each field.
//!
//! ```text
//! type NAME: DESCRIPTION                    a message that fields name as their type
//! kind NAME GROUP VERSION...: DESCRIPTION   a kind; the first version is stored
//!   short NAME                              its short name
//!   scope Cluster                           it has no namespace
//!   status TYPE                             what its status is; otherwise that of Istio's kinds
//!   column NAME TYPE JSONPATH: DESCRIPTION  a column of `kubectl get`
//!   include TYPE                            the fields of a type
//!   one of FIELD, FIELD                     at most one may be set (by schema: costs nothing however deep)
//!   exclusive FIELD, FIELD                  the same by a CEL rule, which says what is wrong (near the top only)
//!   check RULE -- MESSAGE                   a CEL rule
//!   FIELD TYPE DESCRIPTION
//! ```
//!
//! Types are described in [`crate::types`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::types::FieldType;

pub(crate) struct Table {
    pub(crate) kinds: Vec<Kind>,
    types: BTreeMap<String, Message>,
}

pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) versions: Vec<String>,
    pub(crate) short: Option<String>,
    pub(crate) scope: String,
    pub(crate) status: Option<String>,
    pub(crate) columns: Vec<Column>,
    pub(crate) spec: Message,
}

pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) path: String,
    pub(crate) description: String,
}

#[derive(Default)]
pub(crate) struct Message {
    pub(crate) description: String,
    pub(crate) fields: Vec<Field>,
    pub(crate) one_of: Vec<Vec<String>>,
    pub(crate) exclusive: Vec<Vec<String>>,
    pub(crate) rules: Vec<Rule>,
    include: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: FieldType,
    pub(crate) description: String,
}

/// A CEL rule (x-kubernetes-validations).
pub(crate) struct Rule {
    pub(crate) rule: String,
    pub(crate) message: String,
}

impl Kind {
    pub(crate) fn singular(&self) -> String {
        self.name.to_lowercase()
    }

    pub(crate) fn plural(&self) -> String {
        let singular = self.singular();
        if singular.ends_with('s') {
            return format!("{singular}es");
        }
        match singular.strip_suffix('y') {
            Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
            _ => format!("{singular}s"),
        }
    }

    pub(crate) fn crd_name(&self) -> String {
        format!("{}.{}", self.plural(), self.group)
    }
}

impl Table {
    pub(crate) fn read(files: &[PathBuf]) -> Result<Self> {
        let mut table = Self {
            kinds: Vec::new(),
            types: BTreeMap::new(),
        };
        for file in files {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            for block in blocks(&text) {
                table
                    .block(&block)
                    .with_context(|| format!("{}, `{}`", file.display(), block[0]))?;
            }
        }
        table.resolve_includes()?;
        table.check_names()?;
        Ok(table)
    }

    pub(crate) fn message(&self, name: &str) -> Result<&Message> {
        self.types
            .get(name)
            .with_context(|| format!("no table defines the type {name}"))
    }

    fn block(&mut self, block: &[&str]) -> Result<()> {
        let (head, description) = block[0]
            .split_once(": ")
            .context("expected a description after `: `")?;
        let words: Vec<&str> = head.split_whitespace().collect();
        match words.as_slice() {
            ["type", name] => {
                let message = Message::parse(description, &block[1..])?;
                if self.types.insert((*name).to_owned(), message).is_some() {
                    bail!("{name} is defined twice");
                }
            }
            ["kind", name, group, versions @ ..] if !versions.is_empty() => {
                self.kinds
                    .push(Kind::parse([name, group], versions, description, &block[1..])?);
            }
            _ => bail!("expected `type NAME: …` or `kind NAME GROUP VERSION…: …`"),
        }
        Ok(())
    }

    fn resolve_includes(&mut self) -> Result<()> {
        for kind in &mut self.kinds {
            if let Some(name) = kind.spec.include.take() {
                let included = self
                    .types
                    .get(&name)
                    .with_context(|| format!("{} includes {name}, which no table defines", kind.name))?;
                kind.spec.fields.extend(included.fields.iter().cloned());
            }
        }
        Ok(())
    }

    /// Types that nothing names are typing errors, or left over; so are groups of fields that do not exist.
    fn check_names(&self) -> Result<()> {
        let messages = || {
            self.types
                .values()
                .chain(self.kinds.iter().map(|kind| &kind.spec))
        };
        let in_fields = messages()
            .flat_map(|message| &message.fields)
            .filter_map(|field| field.kind.message());
        let statuses = self.kinds.iter().filter_map(|kind| kind.status.as_deref());
        let used: BTreeSet<&str> = in_fields.chain(statuses).collect();
        if let Some(unused) = self.types.keys().find(|name| !used.contains(name.as_str())) {
            bail!("nothing uses the type {unused}");
        }
        for message in messages() {
            let known: BTreeSet<&str> = message.fields.iter().map(|field| field.name.as_str()).collect();
            let named = message.one_of.iter().chain(&message.exclusive).flatten();
            if let Some(unknown) = named.into_iter().find(|name| !known.contains(name.as_str())) {
                bail!("{unknown} is no field of `{}`", message.description);
            }
        }
        Ok(())
    }
}

/// First words of the lines that are about a kind itself. No field is called so.
const OF_KIND: [&str; 4] = ["short ", "scope ", "status ", "column "];

/// A heading and the lines below it.
fn blocks(text: &str) -> Vec<Vec<&str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    for line in lines {
        match blocks.last_mut() {
            Some(block) if line.starts_with(' ') => block.push(line.trim()),
            _ => blocks.push(vec![line]),
        }
    }
    blocks
}

impl Kind {
    fn parse([name, group]: [&str; 2], versions: &[&str], description: &str, lines: &[&str]) -> Result<Self> {
        let (own, fields): (Vec<&str>, Vec<&str>) = lines
            .iter()
            .partition(|line| OF_KIND.iter().any(|word| line.starts_with(word)));
        let mut kind = Self {
            name: name.to_owned(),
            group: group.to_owned(),
            versions: versions.iter().map(|version| (*version).to_owned()).collect(),
            short: None,
            scope: "Namespaced".to_owned(),
            status: None,
            columns: Vec::new(),
            spec: Message::parse(description, &fields)?,
        };
        for line in own {
            match line.split_once(' ') {
                Some(("short", short)) => kind.short = Some(short.to_owned()),
                Some(("scope", scope)) => scope.clone_into(&mut kind.scope),
                Some(("status", name)) => kind.status = Some(name.to_owned()),
                _ => kind.columns.push(Column::parse(line)?),
            }
        }
        Ok(kind)
    }
}

impl Column {
    fn parse(line: &str) -> Result<Self> {
        let wrong = || format!("expected `column NAME TYPE JSONPATH: DESCRIPTION`, found `{line}`");
        let (head, description) = line.split_once(": ").with_context(wrong)?;
        let words: Vec<&str> = head.split_whitespace().collect();
        let ["column", name, kind, path] = words.as_slice() else {
            bail!(wrong());
        };
        Ok(Self {
            name: (*name).to_owned(),
            kind: (*kind).to_owned(),
            path: (*path).to_owned(),
            description: description.to_owned(),
        })
    }
}

impl Message {
    fn parse(description: &str, lines: &[&str]) -> Result<Self> {
        let mut message = Self {
            description: description.to_owned(),
            ..Self::default()
        };
        for line in lines {
            message.line(line).with_context(|| format!("line `{line}`"))?;
        }
        Ok(message)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let names = |list: &str| list.split(',').map(|name| name.trim().to_owned()).collect();
        if let Some(list) = line.strip_prefix("one of ") {
            self.one_of.push(names(list));
        } else if let Some(list) = line.strip_prefix("exclusive ") {
            self.exclusive.push(names(list));
        } else if let Some(check) = line.strip_prefix("check ") {
            let (rule, message) = check.split_once(" -- ").context("expected `RULE -- MESSAGE`")?;
            self.rules.push(Rule {
                rule: rule.to_owned(),
                message: message.to_owned(),
            });
        } else if let Some(name) = line.strip_prefix("include ") {
            self.include = Some(name.to_owned());
        } else {
            self.fields.push(Field::parse(line)?);
        }
        Ok(())
    }
}

impl Field {
    fn parse(line: &str) -> Result<Self> {
        let next = |text: &'_ str| -> Result<(String, String)> {
            let (word, rest) = text
                .split_once(char::is_whitespace)
                .context("expected `NAME TYPE DESCRIPTION`")?;
            Ok((word.to_owned(), rest.trim_start().to_owned()))
        };
        let (name, rest) = next(line)?;
        let (kind, description) = next(&rest)?;
        Ok(Self {
            name,
            kind: kind.parse().with_context(|| format!("type `{kind}`"))?,
            description,
        })
    }
}
