#include "clock.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace rowwise {

namespace {

// Appends the tables of the powers of a base.
void append_powers(double base, std::vector<double>& tables) {
    for (int i = 0; i < 256; ++i) tables.push_back(std::pow(base, i));
    for (int i = 0; i < 256; ++i) tables.push_back(std::pow(base, i * 256.0));
}

}  // namespace

Clock::Clock(const LagParams& params)
    : ratio_(params.ratio), growth_(params.growth), terms_(params.terms),
      unbounded_(params.unbounded), horizon_(params.horizon),
      expands_(std::isfinite(params.ratio) && std::isfinite(params.growth)) {
    if (terms_ != 0 && terms_ != 1 && terms_ != kTerms)
        throw std::invalid_argument("terms must be 0, 1 or " + std::to_string(kTerms));
    if (horizon_ < 1 || horizon_ > kMostSteps)
        throw std::invalid_argument("horizon must be 1 to " + std::to_string(kMostSteps) +
                                    ", not " + std::to_string(horizon_));
    if (params.slot_decay.size() > kSlots)
        throw std::invalid_argument("a rule has at most " + std::to_string(kSlots) + " slots");
    append_powers(params.ratio, ratio_powers_);
    for (const double base : params.slot_decay) append_powers(base, slot_powers_);
    horizon_sums_.resize(std::size_t{horizon_} + 1);
    recent_.resize(std::size_t{horizon_} + 1);
    restart();
    const ClockView view = this->view();
    for (uint32_t k = 0; k <= horizon_; ++k) view.count_missed(recent_[k], k);
}

ClockView Clock::view() const {
    auto& own = const_cast<Clock&>(*this);  // the arrays' pointers serve writers as well
    ClockView view{};
    view.recent = own.recent_.data();
    view.sums = own.horizon_sums_.data();
    view.steps = own.steps_.data();
    view.decay = own.decay_.data();
    view.total = own.total_.data();
    view.closed = own.closed_.data();
    view.ratio_powers = ratio_powers_.data();
    view.slot_powers = slot_powers_.data();
    view.growth = growth_;
    view.now = now_;
    view.horizon = horizon_;
    view.terms = terms_;
    view.slots = static_cast<int>(slot_powers_.size() / kPowers);
    view.unbounded = unbounded_;
    view.expands = expands_;
    view.decays = decays_;
    return view;
}

void Clock::restart() {
    now_ = 0;
    decays_ = false;
    most_scale_ = most_decay_ = 0;
    steps_.assign(1, {0, 1, 0});
    decay_.assign(1, {});
    total_.assign(1, 0.0);
    closed_.clear();
}

void Clock::push(const StepRecord& step) {
    ++now_;
    steps_.emplace_back();
    decay_.emplace_back();
    if (unbounded_) total_.emplace_back();
    view().push(step);
    decays_ = decays_ || step.decay_factor != 1.0;
    most_scale_ = std::max(most_scale_, std::abs(step.scale));
    most_decay_ = std::max(most_decay_, std::abs(1.0 - step.decay_factor));
}

void Clock::add_within_horizon(uint32_t step, uint32_t first) {
    const ClockView view = this->view();
    const ClockView::Addend addend = view.addend(step);
    // Each last step misses one more, so that the sums move up by one, the longest first.
    for (uint32_t k = std::min(step - first, horizon_); k > 0; --k)
        view.extend(addend, horizon_sums_[k - 1], k, horizon_sums_[k]);
}

void Clock::refresh_recent() {
    const ClockView view = this->view();
    const uint32_t reach = std::min(now_, horizon_);
    for (uint32_t k = 1; k <= reach; ++k)
        view.write(recent_[k], horizon_sums_[k].decay, 1.0, horizon_sums_[k].terms);
}

void Clock::advance(const StepRecord& step) {
    push(step);
    add_within_horizon(now_, 0);
    refresh_recent();
    // A row at the horizon's far end gains nothing from later steps but their weight decay.
    if (now_ >= horizon_ && view().closes()) closed_.push_back(horizon_sums_[horizon_].terms);
}

StepHistory Clock::history() const {
    StepHistory history;
    history.steps.assign(steps_.begin() + 1, steps_.end());
    history.closed.reserve(closed_.size() * (kTerms + 1));
    for (const Coefficients& c : closed_)
        history.closed.insert(history.closed.end(), c.c, c.c + kTerms + 1);
    return history;
}

void Clock::restore(const StepHistory& history) {
    const std::size_t steps = history.steps.size(), numbers = history.closed.size();
    if (steps > kMostSteps) throw std::invalid_argument("a clock remembers at most 65535 steps");
    const bool closes = view().closes() && steps >= horizon_;
    if (numbers != (closes ? steps - horizon_ + 1 : 0) * (kTerms + 1))
        throw std::invalid_argument("the clock's coefficients do not fit its steps");
    restart();
    for (const StepRecord& step : history.steps) push(step);
    closed_.resize(numbers / (kTerms + 1));
    for (std::size_t i = 0; i < numbers; ++i)
        closed_[i / (kTerms + 1)].c[i % (kTerms + 1)] = history.closed[i];
    const uint32_t first = now_ - std::min(now_, horizon_);
    for (uint32_t step = first + 1; step <= now_; ++step) add_within_horizon(step, first);
    refresh_recent();
}

LaggedUpdate Clock::since(uint32_t last_step) const { return view().since(last_step); }

int64_t Clock::replay_terms(uint32_t last_step, Term* terms) const {
    const ClockView view = this->view();
    const uint32_t count = view.replay_count(last_step);
    for (uint32_t j = 1; j <= count; ++j) terms[j - 1] = view.replay_term(last_step, j);
    return count;
}

}  // namespace rowwise
