//! One suite for every store: what `storage` promises, each promise by its name, held against each
//! store that there is, and against what is made of them.

mod foreign;
mod promises;
mod stores;
mod unmounted;

/// The suite, once for each of the stores.
macro_rules! every_store {
    ($($store:ident),* $(,)?) => {$(
        mod $store {
            use super::{promises, stores::Site};

            #[test]
            fn no_reader_ever_sees_part_of_an_object() {
                promises::no_reader_ever_sees_part_of_an_object(&Site::$store());
            }
            #[test]
            fn a_body_that_ends_with_an_error_leaves_nothing() {
                promises::a_body_that_ends_with_an_error_leaves_nothing(&Site::$store());
            }
            #[test]
            fn what_was_acknowledged_is_there_for_everybody() {
                promises::what_was_acknowledged_is_there_for_everybody(&Site::$store());
            }
            #[test]
            fn what_was_put_is_at_once_read_and_listed() {
                promises::what_was_put_is_at_once_read_and_listed(&Site::$store());
            }
            #[test]
            fn create_never_replaces() {
                promises::create_never_replaces(&Site::$store());
            }
            #[test]
            fn of_sixteen_who_create_one_name_exactly_one_does() {
                promises::of_sixteen_who_create_one_name_exactly_one_does(&Site::$store());
            }
            #[test]
            fn writers_of_the_same_bytes_are_all_content() {
                promises::writers_of_the_same_bytes_are_all_content(&Site::$store());
            }
            #[test]
            fn deleting_what_is_not_there_is_ok() {
                promises::deleting_what_is_not_there_is_ok(&Site::$store());
            }
            #[test]
            fn listing_is_in_order_by_whole_segments_in_bounded_pages() {
                promises::listing_is_in_order_by_whole_segments_in_bounded_pages(&Site::$store());
            }
            #[test]
            fn thousands_of_objects_are_listed_and_deleted() {
                promises::thousands_of_objects_are_listed_and_deleted(&Site::$store());
            }
            #[test]
            fn a_neighbour_with_a_longer_name_is_another_place() {
                promises::a_neighbour_with_a_longer_name_is_another_place(&Site::$store());
            }
            #[test]
            fn parts_of_an_object_are_read() {
                promises::parts_of_an_object_are_read(&Site::$store());
            }
            #[test]
            fn bodies_of_every_size_come_back_as_they_were() {
                promises::bodies_of_every_size_come_back_as_they_were(&Site::$store());
            }
            #[test]
            fn a_stream_of_seventy_mebibytes_is_stored_once() {
                promises::a_stream_of_seventy_mebibytes_is_stored_once(&Site::$store());
            }
            #[test]
            fn cleaning_takes_no_object() {
                promises::cleaning_takes_no_object(&Site::$store());
            }
        }
    )*};
}

every_store!(directory, s3, s3_with_failures, s3_without_conditions);
