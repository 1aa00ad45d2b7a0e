//! What is handed on: sections of rows and columns, as JSON for `verification.py` to print.

use serde_json::{Value, json};

use crate::rounds::{Cell, Contender, Effort, turn_by_turn};

/// Rows that are comparable with each other, measured turn by turn for each column.
pub(crate) struct Section {
    title: &'static str,
    /// What a cell is the time of.
    per: &'static str,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Option<Cell>>)>,
    ratios: Vec<Value>,
}

impl Section {
    pub(crate) const fn new(title: &'static str, per: &'static str) -> Self {
        Self {
            title,
            per,
            columns: Vec::new(),
            rows: Vec::new(),
            ratios: Vec::new(),
        }
    }

    /// Measures a column. A contender that is not in all columns leaves the others empty.
    pub(crate) fn measure(
        &mut self,
        column: impl Into<String>,
        mut contenders: Vec<Contender<'_>>,
        effort: Effort,
    ) {
        let column = column.into();
        eprintln!("{}: {column}", self.title);
        let cells = turn_by_turn(&mut contenders, effort);
        for (contender, cell) in contenders.iter().zip(cells) {
            let known = self
                .rows
                .iter()
                .position(|(name, _)| *name == contender.name);
            let row = known.unwrap_or_else(|| {
                self.rows.push((contender.name.clone(), Vec::new()));
                self.rows.len() - 1
            });
            let cells = &mut self.rows[row].1;
            cells.resize(self.columns.len(), None);
            cells.push(Some(cell));
        }
        self.columns.push(column);
    }

    /// Has the table say how often `fast` goes into `slow`, and what was aimed for.
    pub(crate) fn ratio(
        mut self,
        name: &str,
        slow: &[String],
        fast: impl Into<String>,
        target: Option<f64>,
    ) -> Self {
        self.ratios
            .push(json!({ "name": name, "slow": slow, "fast": fast.into(), "target": target }));
        self
    }

    pub(crate) fn to_json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(name, cells)| {
                let cells: Vec<Value> = (0..self.columns.len())
                    .map(|at| match cells.get(at).copied().flatten() {
                        Some(cell) => cell.to_json(),
                        None => Value::Null,
                    })
                    .collect();
                json!({ "name": name, "cells": cells })
            })
            .collect();
        json!({
            "title": self.title, "per": self.per, "columns": self.columns,
            "rows": rows, "ratios": self.ratios,
        })
    }
}
