#include "rule.hpp"

#include <cmath>
#include <stdexcept>

namespace rowwise {

namespace {

Family family_of(const std::string& name) {
#define ROWWISE_MATCH(family, ...) \
    if (name == #family) return Family::family;
    ROWWISE_FAMILIES(ROWWISE_MATCH)
#undef ROWWISE_MATCH
    throw std::invalid_argument("no kernel for rule family '" + name + "'");
}

}  // namespace

Rule make_rule(const std::string& family, const RuleParams& params) {
    Rule rule{family_of(family), {}};
    Hyperparameters& h = rule.hyper;
    h.momentum = static_cast<float>(params.momentum);
    h.rho = static_cast<float>(params.rho);
    h.one_minus_rho = static_cast<float>(1 - params.rho);
    h.beta_1 = static_cast<float>(params.beta_1);
    h.one_minus_beta_1 = static_cast<float>(1 - params.beta_1);
    h.beta_2 = static_cast<float>(params.beta_2);
    h.one_minus_beta_2 = static_cast<float>(1 - params.beta_2);
    h.epsilon = static_cast<float>(params.epsilon);
    h.power = static_cast<float>(-params.learning_rate_power);
    h.l1 = static_cast<float>(params.l1);
    h.two_l2 = static_cast<float>(2 * params.l2);
    h.beta = static_cast<float>(params.beta);
    h.horizon_shrink = static_cast<float>(std::pow(params.shrink, params.horizon));
    h.exact_beta_1 = params.beta_1;
    h.exact_shrink = params.shrink;
    h.exact_epsilon = params.epsilon;
    return rule;
}

}  // namespace rowwise
