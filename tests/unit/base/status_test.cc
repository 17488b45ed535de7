#include "broker/base/status.h"

#include <gtest/gtest.h>

#include "broker/base/check.h"

namespace tocsin {
namespace {

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError(fmt::format("{} is odd", value));
  return value / 2;
}

absl::StatusOr<int> Quarter(int value) {
  TOCSIN_ASSIGN_OR_RETURN(const int half, Half(value));
  TOCSIN_RETURN_IF_ERROR(Half(half).status());
  return half / 2;
}

TEST(StatusTest, RetryableCodesAreTheFourThatMayPass) {
  EXPECT_TRUE(IsRetryable(absl::UnavailableError("")));
  EXPECT_TRUE(IsRetryable(absl::ResourceExhaustedError("")));
  EXPECT_TRUE(IsRetryable(absl::DeadlineExceededError("")));
  EXPECT_TRUE(IsRetryable(absl::AbortedError("")));
  EXPECT_FALSE(IsRetryable(absl::OkStatus()));
  EXPECT_FALSE(IsRetryable(absl::InternalError("")));
  EXPECT_FALSE(IsRetryable(absl::DataLossError("")));
}

TEST(StatusTest, AnnotateKeepsTheCodeAndLeavesOkAlone) {
  const absl::Status status = Annotate(absl::NotFoundError("no file"), "opening");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(MessageOf(status), "opening: no file");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "opening").ok());
}

TEST(StatusTest, MacrosReturnTheFirstError) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(MessageOf(Quarter(7).status()), "7 is odd");
  EXPECT_EQ(MessageOf(Quarter(6).status()), "3 is odd");
}

TEST(CheckDeathTest, AFailedCheckPrintsTheExpressionAndTheValues) {
  const int value = 3;
  EXPECT_DEATH(TOCSIN_CHECK(value == 4, "value is {}", value),
               "status_test.cc:.*check failed: value == 4: value is 3");
}

}  // namespace
}  // namespace tocsin
