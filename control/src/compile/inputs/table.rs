//! The objects of one kind, in the order in which they win; a changed copy shares what did not change.

use std::ops::Bound;
use std::sync::Arc;

use imbl::shared_ptr::DefaultSharedPtr;

use crate::objects::Meta;

/// A parsed object and its metadata.
#[derive(Debug)]
pub struct Entry<T> {
    pub meta: Arc<Meta>,
    pub spec: Arc<T>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self {
            meta: self.meta.clone(),
            spec: self.spec.clone(),
        }
    }
}

/// Of one object that was parsed once; what was parsed again counts as another.
impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.meta, &other.meta) && Arc::ptr_eq(&self.spec, &other.spec)
    }
}

/// What a table is sorted by.
pub(super) type Rank = [Arc<str>; 3];

#[derive(Clone, Copy, Debug)]
enum Order {
    /// By namespace and name.
    Name,
    /// Oldest first, then by name and namespace: the order in which Istio lets objects win.
    Age,
}

#[derive(Debug)]
pub struct Table<T> {
    order: Order,
    entries: imbl::OrdMap<Rank, Entry<T>>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self {
            order: self.order,
            entries: self.entries.clone(),
        }
    }
}

impl<T> Table<T> {
    pub(super) fn by_name() -> Self {
        Self::new(Order::Name)
    }

    pub(super) fn by_age() -> Self {
        Self::new(Order::Age)
    }

    fn new(order: Order) -> Self {
        Self {
            order,
            entries: imbl::OrdMap::new(),
        }
    }

    fn rank(&self, meta: &Meta) -> Rank {
        match self.order {
            Order::Name => by_name(&meta.namespace, &meta.name),
            Order::Age => age(meta).map(Arc::clone),
        }
    }

    pub(super) fn insert(&mut self, entry: Entry<T>) {
        self.entries.insert(self.rank(&entry.meta), entry);
    }

    pub(super) fn remove(&mut self, meta: &Meta) {
        self.entries.remove(&self.rank(meta));
    }

    pub fn iter(&self) -> Iter<'_, T> {
        self.entries.values()
    }

    /// With what they are sorted by.
    pub(super) fn ranked(&self) -> impl Iterator<Item = (&Rank, &Entry<T>)> {
        self.entries.iter()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The object of that name; quick where the table is sorted by name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Entry<T>> {
        match self.order {
            Order::Name => self.entries.get(&by_name(&namespace.into(), &name.into())),
            Order::Age => self
                .iter()
                .find(|e| *e.meta.name == *name && *e.meta.namespace == *namespace),
        }
    }

    /// The objects of one namespace, in the table's order.
    pub fn in_namespace<'t>(&'t self, namespace: &'t str) -> impl Iterator<Item = &'t Entry<T>> {
        let start = match self.order {
            Order::Name => Bound::Included(by_name(&namespace.into(), &Arc::default())),
            Order::Age => Bound::Unbounded,
        };
        let sorted = matches!(self.order, Order::Name);
        self.entries
            .range((start, Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(move |e| !sorted || *e.meta.namespace == *namespace)
            .filter(move |e| *e.meta.namespace == *namespace)
    }

    /// Pairs of what was and what is, where they differ: costs what differs if one comes from the other.
    pub fn changes<'t>(
        &'t self,
        newer: &'t Self,
    ) -> impl Iterator<Item = (Option<&'t Entry<T>>, Option<&'t Entry<T>>)> {
        use imbl::ordmap::DiffItem;
        self.entries.diff(&newer.entries).map(|item| match item {
            DiffItem::Add(_, new) => (None, Some(new)),
            DiffItem::Update {
                old: (_, old),
                new: (_, new),
            } => (Some(old), Some(new)),
            DiffItem::Remove(_, old) => (Some(old), None),
        })
    }
}

/// What sorts the oldest first, then by name and namespace.
pub fn age(meta: &Meta) -> [&Arc<str>; 3] {
    [&meta.creation_timestamp, &meta.name, &meta.namespace]
}

fn by_name(namespace: &Arc<str>, name: &Arc<str>) -> Rank {
    [namespace.clone(), name.clone(), namespace.clone()]
}

pub(super) type Iter<'t, T> = imbl::ordmap::Values<'t, Rank, Entry<T>, DefaultSharedPtr>;

impl<'t, T> IntoIterator for &'t Table<T> {
    type Item = &'t Entry<T>;
    type IntoIter = Iter<'t, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
