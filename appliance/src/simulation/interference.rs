//! What happens to a server while it serves, beside what its clients and disks do: who does it, and when.

use super::random::Random;

#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// The agent publishes the next generation.
    Publish,
    Drain(bool),
    Stop,
    Volume {
        index: u16,
        away: bool,
    },
    /// The process stood still for so long.
    Jump {
        ms: u64,
    },
    WallJump {
        seconds: i64,
    },
}

pub struct Schedule {
    /// Latest first.
    actions: Vec<(usize, Action)>,
}

impl Schedule {
    pub fn random(random: &mut Random, harmless: bool) -> Self {
        let rounds = *random.pick(&[60, 400, 1500]);
        let count = if random.chance(1, 2) { random.below(6) } else { 0 };
        let mut actions = Vec::new();
        for _ in 0..count {
            let round = random.below(rounds);
            let later = round + 1 + random.below(rounds);
            let action = if harmless { Action::Publish } else { random_action(random) };
            actions.push((round, action));
            match action {
                Action::Drain(true) if random.chance(1, 2) => actions.push((later, Action::Drain(false))),
                Action::Volume { index, away: true } if random.chance(2, 3) => {
                    actions.push((later, Action::Volume { index, away: false }));
                }
                _ => {}
            }
        }
        actions.sort_by_key(|(round, _)| std::cmp::Reverse(*round));
        Self { actions }
    }

    /// What is due in this round, one by one.
    pub fn next(&mut self, round: usize) -> Option<Action> {
        self.actions.pop_if(|(due, _)| *due <= round).map(|(_, action)| action)
    }
}

fn random_action(random: &mut Random) -> Action {
    match random.below(12) {
        0..=4 => Action::Publish,
        5 => Action::Drain(true),
        6 => Action::Stop,
        7 | 8 => Action::Volume { index: u16::try_from(random.below(2)).unwrap(), away: true },
        9 | 10 => {
            let most = *random.pick(&[3_000, 70_000, 900_000]);
            Action::Jump { ms: u64::try_from(random.below(most)).unwrap() }
        }
        _ => Action::WallJump { seconds: i64::try_from(random.below(86_400)).unwrap() },
    }
}
