//! What there is in a quarantine.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_array::Array;

use super::Mark;
use super::rows::{Chosen, Group, Long, Rows};

/// What a quarantine holds that can be replayed, and what it holds that cannot.
#[derive(Default)]
pub(super) struct Found {
    /// In the order in which they come, with their runs, and whether those are wanted.
    groups: Vec<(Group, HashMap<String, bool>)>,
    places: HashMap<Group, usize>,
    pub(super) runs: HashSet<String>,
    long: HashSet<Long>,
    /// Names of targets, and whether what is to go there is wanted.
    targets: HashMap<String, bool>,
    /// Records that were to go to other targets.
    elsewhere: HashMap<String, u64>,
    /// Without anything to read, or to read it by.
    unreadable: u64,
    /// By stage, those that have to go through transformers that the pipeline has not.
    behind: HashMap<String, u64>,
}

impl Found {
    pub(super) fn add(
        &mut self,
        rows: &Rows,
        is_run: &dyn Fn(&str) -> bool,
        is_target: &dyn Fn(&str) -> bool,
        transforms: i64,
    ) {
        for row in 0..rows.len() {
            let run = rows.run.value(row);
            if rows.replay.is_valid(row) {
                continue;
            }
            if !self.runs.contains(run) {
                self.runs.insert(run.to_owned());
            }
            if rows.part.value(row) > 0 {
                self.long.insert(rows.long(row));
                continue;
            }
            let target = rows.target.is_valid(row).then(|| rows.target.value(row));
            let goes_here = target.is_none_or(|target| match self.targets.get(target) {
                Some(goes_here) => *goes_here,
                None => *self.targets.entry(target.to_owned()).or_insert_with(|| is_target(target)),
            });
            let group = Group::of(rows, row);
            let is_wanted = is_run(run);
            let left = if rows.transforms_left.is_valid(row) { rows.transforms_left.value(row) } else { 0 };
            let stays = match &group {
                _ if !is_wanted => true,
                _ if !goes_here => {
                    *self.elsewhere.entry(target.unwrap_or_default().to_owned()).or_default() += 1;
                    true
                }
                None => {
                    self.unreadable += 1;
                    true
                }
                Some(group) if i64::from(group.transforms).saturating_add(left) > transforms && left > 0 => {
                    *self.behind.entry(group.stage.clone()).or_default() += 1;
                    true
                }
                Some(_) => false,
            };
            let Some(group) = group else { continue };
            let at = match self.places.get(&group) {
                Some(at) => *at,
                None => {
                    self.places.insert(group.clone(), self.groups.len());
                    self.groups.push((group, HashMap::new()));
                    self.groups.len() - 1
                }
            };
            // A run is wanted for its group if one of its records is.
            match self.groups[at].1.get_mut(run) {
                Some(is_wanted) => *is_wanted |= !stays,
                None => _ = self.groups[at].1.insert(run.to_owned(), !stays),
            }
        }
    }

    /// The first one that was not done.
    pub(super) fn first(&self, empty: &HashSet<Group>) -> Option<Chosen> {
        let wanted = |runs: &HashMap<String, bool>| -> HashSet<String> {
            runs.iter().filter(|(_, is_wanted)| **is_wanted).map(|(run, _)| run.clone()).collect()
        };
        let groups = self.groups.iter().filter(|(group, _)| !empty.contains(group));
        let mut groups = groups.map(|(group, runs)| (group, wanted(runs)));
        let (group, runs) = groups.find(|(_, runs)| !runs.is_empty())?;
        let targets = self.targets.iter().filter(|(_, goes_here)| **goes_here).map(|(target, _)| target.clone());
        Some(self.chosen(group, runs, targets.collect()))
    }

    /// The one that a replay took which was stopped, as far as its records are here.
    pub(super) fn marked(&self, mark: &Mark) -> Option<Chosen> {
        let (group, runs) = self.groups.iter().find(|(group, _)| group.digest() == mark.replay)?;
        let runs: HashSet<String> = mark.runs.iter().filter(|run| runs.contains_key(*run)).cloned().collect();
        (!runs.is_empty()).then(|| self.chosen(group, runs, mark.targets.iter().cloned().collect()))
    }

    /// Whether all of that is to be loaded now.
    pub(super) fn is_wanted(&self, chosen: &Chosen) -> bool {
        let runs = self.groups.iter().find(|(group, _)| *group == chosen.group).map(|(_, runs)| runs);
        let goes_here = |target: &String| self.targets.get(target).is_none_or(|goes_here| *goes_here);
        chosen.targets.iter().all(goes_here)
            && runs.is_some_and(|runs| chosen.runs.iter().all(|run| runs.get(run) == Some(&true)))
    }

    fn chosen(&self, group: &Group, runs: HashSet<String>, targets: HashSet<String>) -> Chosen {
        Chosen { group: group.clone(), runs, long: Arc::new(self.long.clone()), targets: Arc::new(targets) }
    }

    /// What is told of the records that stay.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (target, records) in &self.elsewhere {
            notes.push(format!("{records} records that were to go to {target} stay"));
        }
        for (stage, records) in &self.behind {
            notes.push(format!(
                "{records} records of the stage {stage} stay, for they have to go through transformers that are not here; replay them \
                 with the pipeline file, or with the same --where"
            ));
        }
        if self.unreadable > 0 {
            notes.push(format!("{} records stay, of which there is no text that could be read", self.unreadable));
        }
        if !self.long.is_empty() {
            notes.push(format!("{} records stay, which are too long to be held whole", self.long.len()));
        }
        notes
    }
}
