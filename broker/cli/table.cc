#include "broker/cli/table.h"

#include <algorithm>
#include <utility>

#include "broker/base/check.h"

namespace tocsin::cli {
namespace {

constexpr std::size_t kHeldRowsMax = 64;
constexpr std::size_t kGap = 2;

}  // namespace

Table::Table(std::vector<Column> columns, TableLook look, Sink sink)
    : columns_(std::move(columns)), look_(look), sink_(std::move(sink)) {
  for (const Column& column : columns_) widths_.push_back(DisplayWidth(column.title));
}

bool Table::Row(std::vector<Cell> cells) {
  TOCSIN_CHECK(cells.size() == columns_.size());
  for (Cell& cell : cells) {
    cell.text = cell.text.empty() ? "-" : Clean(cell.text);
  }
  if (widths_known_) return WriteRow(cells);
  for (std::size_t i = 0; i < cells.size(); ++i) {
    widths_[i] = std::max(widths_[i], DisplayWidth(cells[i].text));
  }
  held_.push_back(std::move(cells));
  return held_.size() < kHeldRowsMax || WriteHeld();
}

bool Table::Finish() { return widths_known_ || held_.empty() || WriteHeld(); }

bool Table::WriteHeld() {
  widths_known_ = true;
  std::vector<Cell> header;
  for (const Column& column : columns_) header.emplace_back(column.title, Tint::kBold);
  bool reading = WriteRow(header);
  for (const std::vector<Cell>& row : held_) reading = reading && WriteRow(row);
  held_.clear();
  return reading;
}

bool Table::WriteRow(const std::vector<Cell>& cells) {
  std::string line;
  std::size_t used = 0;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const bool last = i + 1 == cells.size();
    const std::size_t width = DisplayWidth(cells[i].text);
    const std::size_t padding = widths_[i] > width ? widths_[i] - width : 0;
    if (columns_[i].right) line.append(padding, ' ');
    std::string text = cells[i].text;
    if (last && look_.width > used + 1) text = Clip(text, look_.width - used);
    line += Paint(look_.colored, cells[i].tint, text);
    if (last) break;
    line.append((columns_[i].right ? 0 : padding) + kGap, ' ');
    used += std::max(width, widths_[i]) + kGap;
  }
  line += '\n';
  return sink_(line);
}

}  // namespace tocsin::cli
