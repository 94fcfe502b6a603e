// The clock: what the steps since a row's stamp do to a row that no batch touched.
//
// With a zero gradient a row moves by a sum over the missed steps j = 1..k,
//
//     w <- keep * w  -  X * sum_j  a_{s+j} * P(s+j) * ratio^j / (1 + y * (growth^j - 1))
//
// where s is the stamp, a_i the scale of step i, P(i) the product of the weight-decay factors of
// the steps after i, and X and y belong to the row's element (y = 0 for plain momentum; for Adam
// ratio = beta_1 / sqrt(beta_2), growth = 1 / sqrt(beta_2), y = eps / (sqrt(v) + eps)). Expanding
// 1 / (1 + y x) in powers of x = growth^j - 1 gives a polynomial in y whose coefficients,
//
//     C_n(s) = sum_j a_{s+j} * P(s+j) * ratio^j * (growth^j - 1)^n,
//
// depend on the stamp alone. They obey C(s) = T (C(s+1) + a_{s+1} P(s+1) e_0) with a fixed
// triangular T of positive entries, so all stamps within the window are refreshed once a step
// without cancellation, and the coefficients of a stamp that leaves the window are kept for good.
// The remainder of the expansion is at most C_N / C_0 of the movement (alternating, x >= 0): where
// that is not below float32 rounding, the terms are replayed one by one.
#pragma once
#include <cstdint>
#include <vector>

namespace rowwise {

constexpr int kTerms = 8;  // terms of the expansion kept
constexpr int kSlots = 3;  // slots a rule can have, at most

// What k missed steps do to a row, for one k.
struct Skip {
    float keep = 1;            // factor on the weight
    float decay[kSlots] = {};  // factor on each slot
    float move[kTerms] = {};   // C_0, -C_1, C_2, ...: polynomial in y
    uint32_t replay = 0;       // nonzero: the expansion does not hold, replay the terms
};

// base^k for 0 <= k < 2^16 from two short tables, exact to float64 rounding.
class Powers {
  public:
    explicit Powers(double base);
    double operator()(uint32_t k) const { return high_[k >> 8] * low_[k & 255]; }

  private:
    std::vector<double> low_, high_;
};

class Clock {
  public:
    // Steps remembered; the table is brought up to date before they run out.
    static constexpr uint32_t kHorizon = (1u << 16) - 1;

    // window: after how many missed steps the rest of the sum is below 2^-30 of it.
    // terms: 0 (the weight stands still), 1 (momentum) or kTerms (Adam).
    Clock(double ratio, double growth, int terms, uint32_t window,
          const std::vector<double>& slot_decay);

    void advance(double scale, double keep);  // one step more
    void restart();                           // every row is current: forget the past

    uint32_t now() const { return now_; }
    uint32_t window() const { return window_; }
    const Skip* recent() const { return recent_.data(); }  // by k = now - stamp, up to window

    // Any stamp <= now.
    Skip since(uint32_t stamp) const;

    // The single terms since `stamp`: term[j-1] = a_{s+j} P(s+j). Returns their number, at most
    // `window`.
    int64_t replay_terms(uint32_t stamp, double* term) const;

  private:
    struct Coefficients {
        double c[kTerms + 1] = {};  // the last bounds the remainder
    };
    void extend(Coefficients& c, double first) const;  // C(s+1) -> C(s)
    void write(Skip& skip, uint32_t k, double keep, double tail, const Coefficients& c) const;
    double kept_since(uint32_t step) const;  // P(step)

    const int terms_;
    const uint32_t window_;
    bool expands_ = true;
    double shift_[kTerms + 1][kTerms + 1] = {};  // T
    std::vector<Powers> slot_decay_;

    uint32_t now_ = 0;
    bool decays_ = false;                // some step decayed the weights
    std::vector<double> scale_;          // (now + 1,) a_i
    std::vector<double> keep_;           // (now + 1,) weight-decay factor of step i
    std::vector<double> log_keep_;       // (now + 1,) its running log-product
    std::vector<Coefficients> closed_;   // by stamp, for stamps that left the window
    std::vector<Skip> recent_;
};

}  // namespace rowwise
