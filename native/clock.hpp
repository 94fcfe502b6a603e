// The clock: what the steps since a row's last step do to a row that no batch touched.
//
// With a zero gradient a row moves by a sum over the missed steps j = 1..k,
//
//     w <- P(s) * w  -  X * sum_j  a_{s+j} * P(s+j) * ratio^j / (1 + y * x_j),
//     x_j = growth^j * e_{s+j} / e_{s+1} - 1  >=  0
//
// where s is the row's last step, a_i the scale of step i, e_i its factor on epsilon (1, or where
// epsilon comes after the bias correction sqrt(1 - beta_2^i)), P(i) the product of the weight-decay
// factors of the steps after i, and X and y belong to the row's element (y = 0 for plain momentum;
// for Adam ratio = beta_1 / sqrt(beta_2), growth = 1 / sqrt(beta_2), y = eps / (sqrt(v) + eps) with
// eps = epsilon * e_{s+1}). Expanding 1 / (1 + y x) in powers of x gives a polynomial in y whose
// coefficients,
//
//     C_n(s) = sum_j a_{s+j} * P(s+j) * ratio^j * x_j^n,
//
// depend on s alone. A step adds one term to each of them: its x is g x + (g - 1) of the term
// before, g = growth * e_i / e_{i-1} >= 1, so all last steps within the horizon follow a step by
// sums of positive numbers, without cancellation, and the coefficients of one that leaves the
// horizon are kept for good. The remainder of the expansion is at most y^N C_N of the
// movement's C_0 (alternating, x >= 0): for a y with which that is not below float32 rounding, the
// terms are replayed one by one.
//
// Past the tables made at its start, a clock computes by +, *, / and powers of two alone, so that
// another processor gives the same bits.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lagged.hpp"
#include "plain.hpp"

namespace rowwise {

// The steps of a clock, for a file: a clock restored from them goes on to the same bits.
struct StepHistory {
    std::vector<StepRecord> steps;
    std::vector<double> closed;  // kTerms + 1 coefficients per last step that left the horizon
};

// How missed steps move the rows of a rule.
struct LagParams {
    double ratio = 0, growth = 1;
    int terms = 0;           // 0 (the weight stands still), 1 (momentum) or kTerms (Adam)
    bool unbounded = false;  // ratio is 1, no step is ever too long ago; terms is 1
    uint32_t horizon = 1;    // after how many missed steps the rest of the sum is below 2^-30 of it
    std::vector<double> slot_decay;
};

class Clock {
  public:
    // Steps remembered; rows are brought up to date before they run out.
    static constexpr uint32_t kMostSteps = (1u << 16) - 1;

    explicit Clock(const LagParams& params);

    void advance(const StepRecord& step);  // its epsilon_factor no smaller than the last
    void restart();                        // every row is current: forget the past

    StepHistory history() const;
    // Throws std::invalid_argument if the history is not of such a clock.
    void restore(const StepHistory& history);

    uint32_t now() const { return now_; }
    uint32_t horizon() const { return horizon_; }
    // The clock's arrays, to which nothing may be written.
    ClockView view() const;

    // Whether rows must be brought up to date, and the clock restarted, before it takes a step: it
    // remembers no more of them; its epsilon never falls (somebody has set the iteration back); and
    // no step is before one whose decay factor is not above 0.
    bool restarts_before(const StepRecord& step) const {
        return now_ >= kMostSteps || step.epsilon_factor < steps_[now_].epsilon_factor ||
               step.decay_factor <= 0;
    }
    double ratio() const { return ratio_; }
    bool unbounded() const { return unbounded_; }
    // The records of steps 1 to now, at these places; the largest |scale| and 1 - decay_factor.
    const StepRecord* steps() const { return steps_.data(); }
    double most_scale() const { return most_scale_; }
    double most_decay() const { return most_decay_; }
    const LaggedUpdate* recent() const { return recent_.data(); }  // by missed steps, up to horizon

    // Of a row whose last step is any one up to now.
    LaggedUpdate since(uint32_t last_step) const;

    using Term = ReplayTerm;
    // Writes the single terms since `last_step`, j = 1.., to `terms`. Returns their number, at most
    // `horizon`.
    int64_t replay_terms(uint32_t last_step, Term* terms) const;

  private:
    void push(const StepRecord& step);
    // Takes step `step` into the sums of last steps from `first` on.
    void add_within_horizon(uint32_t step, uint32_t first);
    void refresh_recent();

    const double ratio_, growth_;
    const int terms_;
    const bool unbounded_;
    const uint32_t horizon_;
    const bool expands_;
    std::vector<double> ratio_powers_;  // (kPowers,)
    std::vector<double> slot_powers_;   // (slots, kPowers)

    uint32_t now_ = 0;
    bool decays_ = false;  // some step decayed the weights
    double most_scale_ = 0, most_decay_ = 0;
    std::vector<StepRecord> steps_;      // (now + 1,); the first is no step
    std::vector<RunningProduct> decay_;  // (now + 1,) of the decay factors
    std::vector<double> total_;          // (now + 1,) sum_i a_i P(i) as of each step, if unbounded
    std::vector<Coefficients> closed_;   // by last step, for those that left the horizon
    std::vector<HorizonSum> horizon_sums_;  // by missed steps, 0..horizon
    std::vector<LaggedUpdate> recent_;      // the same, as rows read it
};

}  // namespace rowwise
